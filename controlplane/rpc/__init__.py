"""The gRPC server and its servicers, one a resource: thin around the catalog and the store.

It owns what surrounds every RPC: checks, statuses, logs and TLS. It may import every other package
but `upkeep`.
"""
