"""What runs by itself: deleted resources, old snapshots and old audit events go, rollouts are
carried on.

It owns the timers of these tasks. It may import `controlplane.store` and `controlplane.catalog`.
"""
