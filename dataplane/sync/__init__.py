"""The data plane's end of the Sync stream, and the last-known-good snapshot on disk.

It owns the stream's state machine (pure), reconnects, and the files that a data plane keeps. It may
import `dataplane.snapshot`, `dataplane.settings`, `dataplane.errors` and `protocol`.
"""
