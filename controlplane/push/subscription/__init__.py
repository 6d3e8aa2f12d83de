"""One Sync stream as a state machine, without I/O. Pure.

It owns what the control plane knows of a stream and sends next on it. It may import
`controlplane.fleet.progress`, `controlplane.catalog` and `protocol`.
"""
