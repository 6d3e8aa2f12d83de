"""Revocations of API keys beside snapshots: the file of them, and how they are taken and reported.

It owns the file REVOCATIONS of the data directory. It may import `dataplane.snapshot`,
`dataplane.errors`, `dataplane.sync` and `protocol`.
"""
