"""Request ids: they make a repeated change take effect once."""

from __future__ import annotations

import uuid
from typing import Protocol, runtime_checkable


@runtime_checkable
class Identified(Protocol):
    """A request that changes something."""

    request_id: str


def identify(request: object) -> None:
    """Give a request that changes something an id, unless the caller gave one.

    gRPC retries it with the same id, and the control plane carries it out once.
    """
    if isinstance(request, Identified) and not request.request_id:
        request.request_id = str(uuid.uuid4())
