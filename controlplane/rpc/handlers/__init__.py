"""What each RPC does: one handler class for each kind of resource, over a shared `Registry`.

It owns how a request becomes a change of the catalog, or an answer from the store. It may import
every other package of the control plane but `upkeep` and the modules of `rpc` around it.
"""
