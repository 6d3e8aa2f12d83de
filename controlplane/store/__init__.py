"""Everything that the control plane keeps, and all SQL behind it.

`store.py` is the way in. `transactions.py` composes the repositories of all resources for one
change of the catalog; `revisions.py` allocates its revision. `resources` has the repositories of
models, adapters, routes and API keys; `fleet` has what is known of data planes.

It owns the tables, the migrations and the transactions. It may import `controlplane.catalog`,
`controlplane.listing`, `controlplane.commit_feed`, `controlplane.principal`, `controlplane.errors`
and `protocol`.
"""
