"""How files are read and written: the interface of a disk, and this machine's.

Owns no content. May import `dataplane.errors` and `dataplane.sync.durable_files`.
"""
