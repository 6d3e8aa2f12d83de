"""The requests that declare a resource: one kind for models, adapters and routes. Pure."""

from __future__ import annotations

from typing import TypeAlias

from broadsheet.types import RegisterAdapterRequest, RegisterModelRequest, SetRouteRequest
from protocol import names

Request: TypeAlias = RegisterModelRequest | RegisterAdapterRequest | SetRouteRequest

OWNER_LABEL = "broadsheet.dev/applied-by"
"""Names the owner whose `apply` made or changed a resource: `apply --prune` deletes by it. Only
`apply` sets it."""


def resource_name(request: Request) -> str:
    """Resource name of what a request makes."""
    if isinstance(request, RegisterModelRequest):
        return names.model_name(request.model_id)
    if isinstance(request, RegisterAdapterRequest):
        return f"{request.parent}/adapters/{request.adapter_id}"
    return names.route_name(request.route_id)
