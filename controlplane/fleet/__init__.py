"""What data planes have said, here and at other control planes on the same database.

It owns the state of the fleet and who waits for it. It may import `controlplane.store` and
`controlplane.catalog`.
"""
