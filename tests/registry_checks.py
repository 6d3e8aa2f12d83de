"""Checks that everything the registry answers to readers is what the model holds."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from broadsheet.v1 import api_key_pb2, audit_pb2, change_pb2, diff_pb2, route_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import principal
from protocol.catalog_digest import CatalogDigest, blob_digest
from tests import history
from tests.access import TESTER
from tests.registry_client import RecordingClient
from tests.registry_model.state import Registry
from tests.registry_model.values import Entry, Event
from tests.registry_world import NO_CONTEXT, World


class Reading(enum.Enum):
    """What is read and compared."""

    RESOURCES = enum.auto()
    LISTS = enum.auto()
    REVISIONS = enum.auto()
    SNAPSHOTS = enum.auto()
    DIFF = enum.auto()
    HISTORY = enum.auto()


class Checks:
    """Reads the registry through a client, and compares."""

    def __init__(self, client: RecordingClient) -> None:
        self._client = client
        self._caller = client.caller
        self._digests: dict[tuple[str, Entry], bytes] = {}

    async def check(self, world: World, registry: Registry, what: Reading, begin: int, end: int) -> None:
        """Read one kind of thing, as a caller who may read keys.

        Snapshots are those at `begin` and `end`.
        """
        with principal.acting_as(TESTER):
            await self._check(world, registry, what, begin, end)

    async def _check(self, world: World, registry: Registry, what: Reading, begin: int, end: int) -> None:
        match what:
            case Reading.RESOURCES:
                await self._check_resources(world, registry)
            case Reading.LISTS:
                await self._check_lists(world, registry)
            case Reading.REVISIONS:
                await self._check_revisions(world, registry)
            case Reading.SNAPSHOTS:
                for revision in {begin, end}:
                    await self._check_snapshot(world, registry, revision)
            case Reading.DIFF:
                await self._check_diff(world, registry, begin, end)
            case Reading.HISTORY:
                await self._check_history(world, registry)

    async def _check_resources(self, world: World, registry: Registry) -> None:
        for resources in (registry.models, registry.adapters, registry.routes, registry.api_keys):
            for name, resource in resources.items():
                assert await self._client.get(world, name) == resource
        names = {key.uid: key.name for key in await world.store.api_keys.list(after_id="", limit=1000)}
        revoked = [names[uid] for uid in await world.store.revocations.after(0, limit=1000)]
        assert revoked == list(registry.revocations)
        assert (await world.store.head()).revocations_sequence == len(revoked)

    async def _check_lists(self, world: World, registry: Registry) -> None:
        lists: Sequence[tuple[Any, Any, str, Mapping[str, Any]]] = (
            (world.registry.ListModels, pb.ListModelsRequest(show_deleted=True), "models", registry.models),
            (
                world.registry.ListAdapters,
                pb.ListAdaptersRequest(parent="models/-", show_deleted=True),
                "adapters",
                registry.adapters,
            ),
            (world.registry.ListRoutes, route_pb2.ListRoutesRequest(), "routes", registry.routes),
            (world.registry.ListApiKeys, api_key_pb2.ListApiKeysRequest(), "api_keys", registry.api_keys),
        )
        for handler, request, field, expected in lists:
            found = [self._caller.resource(item) for item in await _pages(handler, request, field)]
            assert found == [expected[name] for name in sorted(expected)]

    async def _check_revisions(self, world: World, registry: Registry) -> None:
        for name, contents in registry.contents.items():
            handler, request = (
                (world.registry.ListAdapterRevisions, pb.ListAdapterRevisionsRequest(parent=name))
                if "/adapters/" in name
                else (world.registry.ListModelRevisions, pb.ListModelRevisionsRequest(parent=name))
            )
            revisions = await _pages(handler, request, "revisions")
            assert [(item.number, self._caller.content(item)) for item in reversed(revisions)] == list(
                enumerate(contents, 1)
            )

    async def _check_snapshot(self, world: World, registry: Registry, revision: int) -> None:
        expected = registry.snapshots[revision]
        entries = await world.entries(revision)
        digest = CatalogDigest()
        assert [entry.name for entry in entries] == sorted(expected)
        for entry in entries:
            found = self._caller.entry(entry)
            assert found == expected[entry.name][: len(found)]
            # The bytes are the same whenever the model has this entry.
            key = (entry.name, expected[entry.name])
            assert self._digests.setdefault(key, entry.digest) == entry.digest == blob_digest(entry.blob)
            digest = digest.added(entry.name, entry.type, entry.digest)
        assert (await world.store.revisions.position_at(revision)).digest == digest.root()

    async def _check_diff(self, world: World, registry: Registry, begin: int, end: int) -> None:
        request = diff_pb2.DiffSnapshotsRequest(from_revision=begin, to_revision=end)
        changes = await _pages(world.snapshots.DiffSnapshots, request, "changes")
        old, new = registry.snapshots[begin], registry.snapshots[end]
        kind = change_pb2.ResourceChange
        expected = {
            name: kind.KIND_ADDED if name not in old else kind.KIND_REMOVED if name not in new else kind.KIND_CHANGED
            for name in {*old, *new}
            if old.get(name) != new.get(name)
        }
        assert [(change.name, change.kind) for change in changes] == sorted(expected.items())

    async def _check_history(self, world: World, registry: Registry) -> None:
        """There is one audit event for each revision, in an order that agrees with every writer."""
        events = await _pages(world.registry.ListAuditEvents, audit_pb2.ListAuditEventsRequest(), "events", size=10)
        assert [Event(event.catalog_revision, event.method, event.resource) for event in reversed(events)] == list(
            registry.events
        )
        for event in events:
            before, after = registry.snapshots[event.catalog_revision - 1 : event.catalog_revision + 1]
            differing = {name for name in {*before, *after} if before.get(name) != after.get(name)}
            assert differing <= {change.name for change in event.changes}
        found = {event.catalog_revision: event.request_id or advanced_at(event.catalog_revision) for event in events}
        writes = [write for write in self._client.writes if write.value in found.values()]
        assert history.violations(writes, found, registry.revision) == []


def advanced_at(revision: int) -> str:
    """The name of a write that the control plane made itself, as no caller named it."""
    return f"advanced at {revision}"


async def _pages(handler: Any, request: Any, field: str, *, size: int = 3) -> list[Any]:
    """All items of a list, read in pages."""
    items: list[Any] = []
    request.page_size = size
    while True:
        page = await handler(request, NO_CONTEXT)
        items += getattr(page, field)
        if not page.next_page_token:
            return items
        request.page_token = page.next_page_token
