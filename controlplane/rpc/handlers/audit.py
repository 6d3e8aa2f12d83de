"""The RPC of the audit log."""

from __future__ import annotations

from collections.abc import Sequence

from broadsheet.v1 import audit_pb2
from controlplane import errors
from controlplane.catalog import audit
from controlplane.listing import paging
from controlplane.rpc.handlers.registry import Registry
from protocol.name_advice import advice_on_resource
from protocol.validation import FieldViolation, shorten


class AuditHandler:
    """Reads the audit log."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list_audit_events(self, request: audit_pb2.ListAuditEventsRequest) -> audit_pb2.ListAuditEventsResponse:
        advice = advice_on_resource(request.resource)
        if advice is not None:  # no event would match, as if nothing had happened
            raise errors.InvalidArgument.of_fields(
                (
                    FieldViolation(
                        field="resource",
                        description=f"got {shorten(request.resource)}: {advice.allowed}",
                        served_name=advice.served_name,
                    ),
                )
            )
        matching = audit.filter_from_proto(request)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[audit.AuditEvent]:
            before = (int(cursor[0]), int(cursor[1])) if cursor is not None else None
            return await self._registry.store.audit.list(matching, before=before, limit=limit)

        page = await paging.page(
            request, read, key=lambda event: event.key, key_types=(int, int), to_proto=audit.event_to_proto
        )
        return audit_pb2.ListAuditEventsResponse(events=page.items, next_page_token=page.next_page_token)
