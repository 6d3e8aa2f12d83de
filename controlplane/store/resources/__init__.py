"""The repositories of models, adapters, routes and API keys, and of the served names they hold.

`Models` reads, in a transaction of its own or in one that is open; `ModelChanges` also writes, in a
write transaction. The other resources are alike. A change of a resource writes its row, its served
name and its snapshot entry together (`change.py`).

It may import `controlplane.store.entry_changes` and what that imports.
"""
