"""What each RPC does: one handler class for each kind of resource, over a shared `Registry`.

It owns how a request becomes a change of the catalog or an answer. It may import the same packages
as `controlplane.rpc`, but nothing from `controlplane.rpc` itself. No handler imports another.
"""
