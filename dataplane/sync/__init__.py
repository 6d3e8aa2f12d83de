"""The data plane's end of the Sync stream, and the last-known-good snapshot on disk.

It owns the stream's state machine, reconnects, and the files of a data plane. It may import
`dataplane.snapshot` and `protocol`.
"""
