"""Whole snapshots on disk, the logs of the changes that follow them, and what is booted.

Owns the files in `snapshots/` and `aside/`, CURRENT and PREVIOUS. `dataplane.sync.directory` uses
it. May import `dataplane.snapshot` and the modules of `dataplane.sync` that keep files.
"""
