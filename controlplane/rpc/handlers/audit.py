"""The RPC of the audit log."""

from __future__ import annotations

from collections.abc import Sequence

from broadsheet.v1 import audit_pb2
from controlplane.catalog import audit
from controlplane.listing import paging
from controlplane.rpc.handlers.registry import Registry


class AuditHandler:
    """Reads the audit log."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list_audit_events(self, request: audit_pb2.ListAuditEventsRequest) -> audit_pb2.ListAuditEventsResponse:
        matching = audit.filter_from_proto(request)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[audit.AuditEvent]:
            before = (int(cursor[0]), int(cursor[1])) if cursor is not None else None
            return await self._registry.store.audit.list(matching, before=before, limit=limit)

        page = await paging.page(
            request, read, key=lambda event: event.key, key_types=(int, int), to_proto=audit.event_to_proto
        )
        return audit_pb2.ListAuditEventsResponse(events=page.items, next_page_token=page.next_page_token)
