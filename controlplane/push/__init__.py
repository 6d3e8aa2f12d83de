"""From a commit to the data planes: the fan-out, and a state machine for each stream.

It owns the Sync streams and the chunks that they send. It may import `controlplane.fleet`,
`controlplane.access`, `controlplane.principal`, `controlplane.catalog`, `controlplane.errors` and
`protocol`.
"""
