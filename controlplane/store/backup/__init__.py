"""Backup and restore of a whole store, from either kind of database to either.

It owns the file format of a backup. It may import `controlplane.store.databases`,
`controlplane.store.schema` and `controlplane.errors`.
"""
