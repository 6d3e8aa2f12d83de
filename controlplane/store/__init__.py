"""Everything that the control plane keeps, and all SQL behind it.

It owns the tables, the migrations and the transactions. It may import `controlplane.catalog`,
`controlplane.listing` and `protocol`.
"""
