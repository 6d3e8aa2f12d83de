"""The history of the catalog: snapshots, their differences, rollback, and the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._requests.fields import timestamp
from broadsheet._requests.names import any_resource
from broadsheet.types import (
    AuditEvent,
    DiffSnapshotsResponse,
    FetchSnapshotResponse,
    RollbackCatalogResponse,
    SnapshotSummary,
)
from broadsheet.v1.audit_pb2 import ListAuditEventsRequest
from broadsheet.v1.diff_pb2 import DiffSnapshotsRequest
from broadsheet.v1.rollback_pb2 import RollbackCatalogRequest
from broadsheet.v1.snapshot_service_pb2 import FetchSnapshotRequest, ListSnapshotsRequest


class AsyncHistory(AsyncConnection):
    """The RPCs on the revisions of the whole catalog."""

    async def list_snapshots(self, *, timeout_s: float | None = None) -> AsyncIterator[SnapshotSummary]:
        """List the snapshots that the control plane still has, newest first."""
        async for page in self._pages(self._snapshot.ListSnapshots, ListSnapshotsRequest(), timeout_s):
            for snapshot in page.snapshots:
                yield snapshot

    async def fetch_snapshot(
        self, revision: int | None = None, *, timeout_s: float | None = None
    ) -> FetchSnapshotResponse:
        """Get a whole snapshot, all pages as one. `broadsheet.types` has the messages in its blobs.

        Args:
            revision: Catalog revision. None: the newest.
            timeout_s: Deadline of each page in seconds. None: that of the client.

        Raises:
            NotFound: There is no snapshot of that revision, or it was purged.
        """
        request = FetchSnapshotRequest(revision=revision)
        whole = FetchSnapshotResponse()
        async for page in self._pages(self._snapshot.FetchSnapshot, request, timeout_s):
            whole.MergeFrom(page)
        whole.ClearField("next_page_token")
        return whole

    async def diff_snapshots(
        self, from_revision: int, to_revision: int | None = None, *, timeout_s: float | None = None
    ) -> DiffSnapshotsResponse:
        """Compare two snapshots, by resource and field, all pages as one.

        Args:
            from_revision: Catalog revision to start from. It may be the later revision.
            to_revision: Catalog revision to end with. None: the newest.
            timeout_s: Deadline of each page in seconds. None: that of the client.

        Raises:
            NotFound: There is no snapshot of one of the revisions, or it was purged.
        """
        request = DiffSnapshotsRequest(from_revision=from_revision, to_revision=to_revision)
        whole = DiffSnapshotsResponse()
        async for page in self._pages(self._snapshot.DiffSnapshots, request, timeout_s):
            whole.changes.extend(page.changes)
            whole.from_position.CopyFrom(page.from_position)
            whole.to_position.CopyFrom(page.to_position)
        return whole

    async def rollback_catalog(
        self,
        to_revision: int,
        *,
        expected_revision: int | None = None,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RollbackCatalogResponse:
        """Restore the models, adapters and routes of an earlier snapshot, as one change.

        API keys are left alone: revoked keys stay revoked, new keys valid. If nothing differs,
        nothing is written.

        Args:
            to_revision: Catalog revision of the snapshot to restore.
            expected_revision: Fail unless this is the newest catalog revision. None: do not check.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no snapshot of that revision, or it was purged.
            Aborted: `expected_revision` is not the newest.
            FailedPrecondition: A route of that snapshot pins a revision that no longer exists.
            ResourceExhausted: More resources differ than one change may have.
        """
        request = RollbackCatalogRequest(
            to_revision=to_revision,
            expected_revision=expected_revision,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._snapshot.RollbackCatalog, request, timeout_s)

    async def list_audit_events(
        self,
        *,
        resource: str = "",
        principal: str = "",
        method: str = "",
        min_revision: int | None = None,
        max_revision: int | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[AuditEvent]:
        """List who changed what, newest first: an event per catalog revision or operation.

        An event is listed if it matches every argument that is given.

        Args:
            resource: A resource that the event is about, or that it changed, such as a model.
            principal: Name of who made the change.
            method: Such as `RegisterModel`.
            min_revision: The lowest catalog revision.
            max_revision: The highest catalog revision.
            start_time: The earliest time, inclusive. A time without a zone is local time.
            end_time: The latest time, exclusive.
            timeout_s: Deadline of each page in seconds. None: that of the client.

        Raises:
            InvalidArgument: An argument is invalid, or the lowest revision is above the highest.
        """
        request = ListAuditEventsRequest(
            resource=any_resource(resource) if resource else "",
            principal=principal,
            method=method,
            min_revision=min_revision,
            max_revision=max_revision,
            start_time=timestamp(start_time),
            end_time=timestamp(end_time),
        )
        async for page in self._pages(self._registry.ListAuditEvents, request, timeout_s):
            for event in page.events:
                yield event
