"""Who may do what: `authentication.py` finds out who calls, `permissions.py` what they may do.

It owns the ways to authenticate (tokens, client certificates, OpenID Connect) and the table from
RPC to permission. It may import `controlplane.principal`, `controlplane.errors` and `protocol`.
"""
