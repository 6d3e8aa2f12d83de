"""What each RPC does: one handler class for each kind of resource, over a shared `Registry`.

Each public method carries out the RPC of its name, which the protos document.

It owns how a request becomes a change of the catalog or an answer. It may import the same packages
as `controlplane.rpc`, but nothing from `controlplane.rpc` itself. No handler imports another.
"""
