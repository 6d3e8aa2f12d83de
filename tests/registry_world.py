"""A registry on a real store, called without gRPC."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
from google.protobuf import json_format

from broadsheet.v1 import (
    model_pb2,
    registry_service_pb2,
    snapshot_service_pb2,
    status_pb2,
)
from controlplane.adapters.verification import AdapterVerifier
from controlplane.catalog import domain
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.servicers import Context, RegistryServicer, SnapshotServicer
from controlplane.store.store import Store
from protocol.catalog_digest import CatalogDigest, blob_digest
from tests.adapter_directories import write_adapter

NO_CONTEXT = cast(Context, None)
"""The handlers answer or raise. None of them uses its gRPC context."""

START = datetime(2026, 1, 1, tzinfo=UTC)


def spec(**fields: Any) -> model_pb2.ModelSpec:
    """A spec with LoRA that needs no files, and `fields` as in JSON."""
    return json_format.ParseDict({"engine": {"kind": "KIND_SIMULATED"}, "lora": {}, **fields}, model_pb2.ModelSpec())


def no_statuses(name: str, *, idle_since_revision: int | None = None) -> Sequence[status_pb2.DataPlaneResourceStatus]:
    """A fleet that has reported nothing."""
    return ()


async def no_sync(requests: AsyncIterator[snapshot_service_pb2.SyncRequest], context: Context) -> None:
    """A Sync method that is not served."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED)


class _Statuses:
    """What a world says that data planes have reported."""

    def __init__(self, world: World) -> None:
        self._world = world

    def of(self, name: str, **asked: Any) -> Sequence[status_pb2.DataPlaneResourceStatus]:
        return self._world.resource_statuses(name, **asked)

    def states_of(self, name: str, **asked: Any) -> Collection[status_pb2.ResourceState.ValueType]:
        states = {status.status.state for status in self.of(name, **asked) if status.connected}
        return states - {status_pb2.RESOURCE_STATE_UNSPECIFIED}


class World:
    """A registry and its snapshots, with short methods for tests."""

    def __init__(self, store: Store, directory: Path) -> None:
        """
        Args:
            store: The store of the registry.
            directory: Adapters are written below it.
        """
        self.store = store
        self.directory = directory
        self.published: list[domain.Head] = []
        store.commits.subscribe(self.published.append)
        self.verifier = AdapterVerifier(size_bytes_max=1024 * 1024, allowed_sources=())
        self.resource_statuses: Callable[..., Sequence[status_pb2.DataPlaneResourceStatus]] = no_statuses
        registry = Registry(
            store=store,
            adapter_verifier=self.verifier,
            resource_statuses=_Statuses(self),
        )
        self.registry = RegistryServicer(registry)
        self.snapshots = SnapshotServicer(registry, no_sync)

    async def register_model(
        self, model_id: str, model_spec: model_pb2.ModelSpec | None = None, **fields: Any
    ) -> registry_service_pb2.RegisterModelResponse:
        request = registry_service_pb2.RegisterModelRequest(
            model_id=model_id, spec=model_spec if model_spec is not None else spec(), **fields
        )
        return await self.registry.RegisterModel(request, NO_CONTEXT)

    async def delete_model(self, model_id: str, **fields: Any) -> int:
        request = registry_service_pb2.DeleteModelRequest(name=f"models/{model_id}", **fields)
        return (await self.registry.DeleteModel(request, NO_CONTEXT)).catalog_revision

    async def register_adapter(
        self, model_id: str, adapter_id: str, directory: Path | None = None, **fields: Any
    ) -> registry_service_pb2.RegisterAdapterResponse:
        if directory is None:
            directory = self.directory / "an-adapter"
            if not directory.exists():
                write_adapter(directory)
        request = registry_service_pb2.RegisterAdapterRequest(
            parent=f"models/{model_id}",
            adapter_id=adapter_id,
            source=model_pb2.Source(uri=f"file://{directory}"),
            **fields,
        )
        return await self.registry.RegisterAdapter(request, NO_CONTEXT)

    async def delete_adapter(self, model_id: str, adapter_id: str, **fields: Any) -> int:
        name = f"models/{model_id}/adapters/{adapter_id}"
        request = registry_service_pb2.DeleteAdapterRequest(name=name, **fields)
        return (await self.registry.DeleteAdapter(request, NO_CONTEXT)).catalog_revision

    async def revision(self) -> int:
        """The newest catalog revision."""
        return (await self.store.head()).position.revision

    async def entries(self, revision: int | None = None) -> Sequence[domain.Entry]:
        """All entries of a snapshot. None: the newest snapshot."""
        if revision is None:
            revision = await self.revision()
        return await self.store.read_entries(revision, after_name="", limit=10_000)

    async def check_digest(self, revision: int) -> None:
        """Check that the digest at `revision` is that of its entries."""
        digest = CatalogDigest()
        for entry in await self.entries(revision):
            assert blob_digest(entry.blob) == entry.digest
            digest = digest.added(entry.name, entry.type, entry.digest)
        commit = await self.store.revisions.commit_at(revision)
        assert commit.head.position.digest == digest.root()
        assert commit.head.entry_count == digest.entry_count


@asynccontextmanager
async def open_world(url: str, directory: Path) -> AsyncIterator[World]:
    """A world on the store at `url`; adapters are written below `directory`."""
    ticks = itertools.count()
    async with Store.open(url, clock=lambda: START + timedelta(seconds=next(ticks))) as store:
        world = World(store, directory)
        try:
            yield world
        finally:
            world.verifier.close()
