"""Who a request counts for: its API key, or its address."""

from __future__ import annotations

from dataplane.openai.asgi import Scope
from dataplane.openai.networks import network_of
from dataplane.snapshot.api_key import ApiKey


def caller_of(scope: Scope, key: ApiKey | None) -> str:
    """Whom a request counts for, where callers share something.

    Behind a proxy, all callers without a key are one.
    """
    if key is not None:
        return key.uid
    client = scope.get("client")
    return network_of(client[0]) if client else ""
