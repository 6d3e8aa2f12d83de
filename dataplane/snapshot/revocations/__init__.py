"""API keys that are revoked whatever snapshot is served, and the batches they arrive in (pure).

It owns what is known of revocations beside snapshots. It may import `protocol`.
"""
