"""What arrives and leaves on a Sync stream, beside the state machine. Pure.

It owns how an announced snapshot is collected, and which reports of phases are due. It may import
`dataplane.snapshot`, the pure modules of `dataplane.sync` and `protocol`.
"""
