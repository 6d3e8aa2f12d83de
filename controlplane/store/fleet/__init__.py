"""The records of data planes, and what control planes on one database share about them.

Nothing here takes the lock on the catalog. `reported_names.py` looks up which of the names that
data planes report are in the catalog. It may import `controlplane.store.databases`,
`controlplane.store.reading`, `controlplane.store.schema` and `controlplane.store.times`.
"""
