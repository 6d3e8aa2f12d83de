"""The methods of both clients: one class for each kind of resource.

This package is written by hand; `scripts/sync_client.py` generates `broadsheet._sync` from it, so
each RPC is defined once: its arguments, its request, its result. May import `_connection`,
`_requests`, `specs`, the messages and `protocol`. Users import `broadsheet.AsyncClient`.
"""
