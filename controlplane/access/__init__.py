"""Who calls, and what they may do.

It owns authentication (tokens, certificates, OpenID Connect) and the one table from RPC to
permission. It may import `controlplane.catalog` and `protocol`.
"""
