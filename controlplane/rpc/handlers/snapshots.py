"""The unary RPCs of snapshots. `controlplane.push` serves the stream."""

from __future__ import annotations

from collections.abc import Sequence

from broadsheet.v1 import diff_pb2, rollback_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane import principal
from controlplane.access.permissions import Permission, may
from controlplane.catalog import convert, diff, domain
from controlplane.listing import paging
from controlplane.rpc.handlers import consistency, idempotency
from controlplane.rpc.handlers.registry import Registry
from controlplane.store import entries as store_entries
from controlplane.store import rollback
from controlplane.store.transactions import WriteTransaction

_ENTRIES_DEFAULT = 100
"""Entries or changes of a page whose size the request leaves open."""


_KEYS = "apiKeys/"
_AFTER_KEYS = "apiKeys0"
"""After every name of an API key, and before all others: keys come first, in the order of bytes."""


class SnapshotHandler:
    """Reads and compares snapshots, and rolls the catalog back to one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def fetch_snapshot(self, request: pb.FetchSnapshotRequest) -> pb.FetchSnapshotResponse:
        store = self._registry.store
        cursor = paging.cursor(request, request.page_token, int, str)
        after_name = _shown_after(str(cursor[1]) if cursor is not None else "")
        if cursor is not None:
            head = (await store.revisions.commit_at(int(cursor[0]))).head
        elif request.HasField("revision"):
            head = (await store.revisions.commit_at(request.revision)).head
        else:
            head = await store.head()
        revision = head.position.revision
        page = await store.read_entries(
            revision,
            after_name=after_name,
            limit=paging.page_size(request.page_size, default=_ENTRIES_DEFAULT),
            bytes_max=paging.PAGE_BYTES_MAX,
        )
        # A page may end early because of its bytes, so whether an entry follows must be read.
        following = page and await store.read_entries(revision, after_name=page[-1].name, limit=1)
        return pb.FetchSnapshotResponse(
            position=convert.position_to_proto(head.position),
            entries=[convert.entry_to_proto(entry) for entry in page],
            next_page_token=paging.token(request, (revision, page[-1].name)) if following else "",
            entry_count=head.entry_count,
            signed_head=self._registry.signed_head(head) if cursor is None else None,
        )

    async def diff_snapshots(self, request: diff_pb2.DiffSnapshotsRequest) -> diff_pb2.DiffSnapshotsResponse:
        store = self._registry.store
        key_types = (int, str)
        cursor = paging.cursor(request, request.page_token, *key_types)
        begin = await store.revisions.position_at(request.from_revision)
        if cursor is not None:
            end = await store.revisions.position_at(int(cursor[0]))
        elif request.HasField("to_revision"):
            end = await store.revisions.position_at(request.to_revision)
        else:
            end = (await store.head()).position

        async def read(after: paging.Cursor | None, limit: int) -> Sequence[store_entries.Difference]:
            after_name = _shown_after(str(after[1]) if after is not None else "")
            return await store.entries.differences(begin.revision, end.revision, after_name=after_name, limit=limit)

        page = await paging.page(
            request,
            read,
            key=lambda difference: (end.revision, difference.name),
            key_types=key_types,
            to_proto=lambda difference: diff.resource_change(difference.before, difference.after),
            size_default=_ENTRIES_DEFAULT,
        )
        return diff_pb2.DiffSnapshotsResponse(
            from_position=convert.position_to_proto(begin),
            to_position=convert.position_to_proto(end),
            changes=page.items,
            next_page_token=page.next_page_token,
        )

    async def rollback_catalog(
        self, request: rollback_pb2.RollbackCatalogRequest
    ) -> rollback_pb2.RollbackCatalogResponse:
        expected = request.expected_revision if request.HasField("expected_revision") else None

        async def work(transaction: WriteTransaction) -> rollback_pb2.RollbackCatalogResponse:
            rollback.check_expected(expected, transaction.head)
            count = await rollback.roll_back(transaction, request.to_revision)
            return rollback_pb2.RollbackCatalogResponse(
                catalog_revision=consistency.revision_with(transaction, changed=count > 0), change_count=count
            )

        return await idempotency.commit(
            self._registry.store,
            request,
            rollback_pb2.RollbackCatalogResponse,
            work,
            resource=f"snapshots/{request.to_revision}",
            is_large=True,
        )

    async def list_snapshots(self, request: pb.ListSnapshotsRequest) -> pb.ListSnapshotsResponse:
        async def read(before: int | None, limit: int) -> Sequence[domain.Commit]:
            return await self._registry.store.revisions.list(before_revision=before, limit=limit)

        page = await paging.page_newest_first(
            request, read, key=lambda commit: commit.head.position.revision, to_proto=_summary
        )
        return pb.ListSnapshotsResponse(snapshots=page.items, next_page_token=page.next_page_token)


def _sees_keys() -> bool:
    """Whether the caller may also list API keys, so that a snapshot shows it their entries."""
    return may(principal.current(), Permission.KEYS_READ)


def _shown_after(name: str) -> str:
    """The name after which entries are read for this caller."""
    return name if _sees_keys() else max(name, _AFTER_KEYS)


def _summary(commit: domain.Commit) -> pb.SnapshotSummary:
    summary = convert.commit_to_proto(commit)
    if summary.resource.startswith(_KEYS) and not _sees_keys():
        summary.resource = ""
    return summary
