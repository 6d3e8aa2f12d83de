"""What the registry is and does: models, adapters, routes, keys, revisions, rollouts, and how they
change.

It owns the rules of the catalog: what may be registered, what a change makes of what is there, and
what a snapshot holds. Pure. It may import `controlplane.errors`, `controlplane.principal` and
`protocol`.
"""
