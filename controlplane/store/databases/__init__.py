"""The databases that a store can be on: how each is opened, written to and migrated.

It owns engines, isolation, timeouts and the lock on an SQLite file. It may import
`controlplane.errors`.
"""
