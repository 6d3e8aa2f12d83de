"""What data planes have said, at this control plane and at others on the same database.

It owns the state of the fleet, writes it to the database, and answers callers that wait for a
revision. It may import `controlplane.store`, `controlplane.catalog`, `controlplane.commit_feed`,
`controlplane.errors` and `protocol`.
"""
