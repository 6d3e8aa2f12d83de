"""Who may do what: `authentication.py` finds out who calls, `permissions.py` what they may do.

`identities.py` decides which data planes they may speak for.

It owns the ways to authenticate (tokens, enrolment, client certificates, OpenID Connect) and the
table from RPC to permission. It may import `controlplane.catalog.domain` and `.data_planes`,
`controlplane.principal`, `controlplane.errors` and `protocol`.
"""
