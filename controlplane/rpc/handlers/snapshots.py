"""SnapshotService: its unary RPCs, thin around the store; `sync.py` serves its stream.

Unary requests reach these methods checked by the rules in their protos (`interceptors.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc

from broadsheet.v1 import diff_pb2, rollback_pb2, snapshot_service_pb2, snapshot_service_pb2_grpc
from controlplane.catalog import convert, diff
from controlplane.listing import paging
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.store import entries as store_entries
from controlplane.store import rollback
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction

_FETCH_PAGE_SIZE_DEFAULT = 100

Context = grpc.aio.ServicerContext[Any, Any]

Sync = Callable[[AsyncIterator[snapshot_service_pb2.SyncRequest], Context], Awaitable[None]]
"""Serves one Sync stream; `sync.py` has it."""


class SnapshotServicer(snapshot_service_pb2_grpc.SnapshotServiceServicer):
    """Snapshots, pushed and shown."""

    def __init__(self, store: Store, sync: Sync) -> None:
        """
        Args:
            store: Where snapshots are read from.
            sync: Serves Sync streams.
        """
        self._store = store
        self._sync = sync
        self._changes = Changes(store)

    # grpc.aio also takes a handler that writes through its context; the stubs know only those that
    # yield.
    async def Sync(  # type: ignore[override]
        self, request_iterator: AsyncIterator[snapshot_service_pb2.SyncRequest], context: Context
    ) -> None:
        await self._sync(request_iterator, context)

    async def FetchSnapshot(
        self, request: snapshot_service_pb2.FetchSnapshotRequest, context: Context
    ) -> snapshot_service_pb2.FetchSnapshotResponse:
        cursor = paging.cursor(request, request.page_token, int, str)
        after_name = str(cursor[1]) if cursor is not None else ""
        if cursor is not None:
            head = (await self._store.commit_at(int(cursor[0]))).head
        elif request.HasField("revision"):
            head = (await self._store.commit_at(request.revision)).head
        else:
            head = await self._store.head()
        revision = head.position.revision
        page = await self._store.read_entries(
            revision,
            after_name=after_name,
            limit=paging.page_size(request.page_size, default=_FETCH_PAGE_SIZE_DEFAULT),
            bytes_max=paging.PAGE_BYTES_MAX,
        )
        # A page may end early because of its size, so only looking shows whether anything follows.
        following = page and await self._store.read_entries(revision, after_name=page[-1].name, limit=1)
        return snapshot_service_pb2.FetchSnapshotResponse(
            position=convert.position_to_proto(head.position),
            entries=[convert.entry_to_proto(entry) for entry in page],
            next_page_token=paging.token(request, (revision, page[-1].name)) if following else "",
            entry_count=head.entry_count,
        )

    async def DiffSnapshots(
        self, request: diff_pb2.DiffSnapshotsRequest, context: Context
    ) -> diff_pb2.DiffSnapshotsResponse:
        cursor = paging.cursor(request, request.page_token, int, str)
        begin = await self._store.position_at(request.from_revision)
        if cursor is not None:
            end = await self._store.position_at(int(cursor[0]))
        elif request.HasField("to_revision"):
            end = await self._store.position_at(request.to_revision)
        else:
            end = (await self._store.head()).position

        async def read(after: paging.Cursor | None, limit: int) -> Sequence[store_entries.Difference]:
            after_name = str(after[1]) if after is not None else ""
            return await self._store.differences(begin.revision, end.revision, after_name=after_name, limit=limit)

        changes, following = await paging.read_page(
            read,
            lambda difference: (end.revision, difference.name),
            lambda difference: diff.resource_change(difference.before, difference.after),
            cursor,
            paging.page_size(request.page_size, default=_FETCH_PAGE_SIZE_DEFAULT),
        )
        return diff_pb2.DiffSnapshotsResponse(
            from_position=convert.position_to_proto(begin),
            to_position=convert.position_to_proto(end),
            changes=changes,
            next_page_token=paging.token(request, following) if following is not None else "",
        )

    async def RollbackCatalog(
        self, request: rollback_pb2.RollbackCatalogRequest, context: Context
    ) -> rollback_pb2.RollbackCatalogResponse:
        expected = request.expected_revision if request.HasField("expected_revision") else None

        async def work(transaction: WriteTransaction) -> rollback_pb2.RollbackCatalogResponse:
            rollback.check_expected(expected, transaction.head)
            count = await rollback.roll_back(transaction, request.to_revision)
            stamp, head = transaction.stamp, transaction.head
            return rollback_pb2.RollbackCatalogResponse(
                catalog_revision=stamp.catalog_revision if count else head.position.revision, change_count=count
            )

        return await self._changes.commit(
            request, rollback_pb2.RollbackCatalogResponse, work, resource=f"snapshots/{request.to_revision}"
        )

    async def ListSnapshots(
        self, request: snapshot_service_pb2.ListSnapshotsRequest, context: Context
    ) -> snapshot_service_pb2.ListSnapshotsResponse:
        size = paging.page_size(request.page_size)
        cursor = paging.cursor(request, request.page_token, int)
        before_revision = int(cursor[0]) if cursor is not None else None
        commits = await self._store.list_commits(before_revision=before_revision, limit=size + 1)
        page = commits[:size]
        return snapshot_service_pb2.ListSnapshotsResponse(
            snapshots=[convert.commit_to_proto(commit) for commit in page],
            next_page_token=paging.token(request, (page[-1].head.position.revision,)) if len(commits) > size else "",
        )
