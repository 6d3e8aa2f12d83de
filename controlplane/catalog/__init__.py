"""The rules of the registry: models, adapters, routes, keys, rollouts, and how each may change.

It owns what may be registered, what a request changes, and what a snapshot holds. Pure. It may
import `controlplane.errors`, `controlplane.principal` and `protocol`.
"""
