"""Periodic tasks: purging, compaction, expiry of audit events, and the advance of rollouts.

It owns the timers of these tasks. It may import `controlplane.store`, `controlplane.catalog`,
`controlplane.principal` and `controlplane.errors`.
"""
