"""The RPC about the audit log: thin around the store."""

from __future__ import annotations

from collections.abc import Sequence

from broadsheet.v1 import audit_pb2
from controlplane.catalog import audit
from controlplane.listing import paging
from controlplane.rpc.handlers.models import Context
from controlplane.store.store import Store


class AuditRpcs:
    """The part of RegistryService that is about the audit log."""

    _store: Store

    async def ListAuditEvents(
        self, request: audit_pb2.ListAuditEventsRequest, context: Context
    ) -> audit_pb2.ListAuditEventsResponse:
        matching = audit.filter_from_proto(request)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[audit.AuditEvent]:
            before_revision = int(cursor[0]) if cursor is not None else None
            return await self._store.list_audit_events(matching, before_revision=before_revision, limit=limit)

        first = paging.cursor(request, request.page_token, int)
        events, following = await paging.read_page(
            read,
            lambda event: (event.catalog_revision,),
            audit.event_to_proto,
            first,
            paging.page_size(request.page_size),
        )
        return audit_pb2.ListAuditEventsResponse(
            events=events, next_page_token=paging.token(request, following) if following is not None else ""
        )
