"""The adapters that one engine replica has fetched, and which of them have left the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.adapters import AdapterCache
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import LiveAdapters


@dataclass(frozen=True, slots=True)
class _FetchedAdapter:
    entry: snapshot_pb2.AdapterEntry
    path: Path


class ReplicaAdapters:
    """Fetched adapters by engine-side name. Their files are in `cache`."""

    def __init__(self, cache: AdapterCache) -> None:
        self._cache = cache
        self._fetched: dict[str, _FetchedAdapter] = {}

    def path(self, name: str) -> Path | None:
        """The directory with an adapter's verified files; None: it was not fetched."""
        adapter = self._fetched.get(name)
        return adapter.path if adapter else None

    async def ensure(self, entry: snapshot_pb2.AdapterEntry) -> None:
        """Fetch an adapter unless it is here.

        Raises:
            AdapterError: its files are missing, unreadable, or not those that were registered.
        """
        name = engine_adapter_name(entry)
        if name not in self._fetched:
            path = await self._cache.ensure(entry)
            self._fetched[name] = _FetchedAdapter(entry, path)

    def stale(self, live: LiveAdapters) -> list[str]:
        """The adapters that have left the catalog.

        `live` may be older than an adapter, which is then not listed in it yet.
        """
        return [
            name
            for name, adapter in self._fetched.items()
            if name not in live.names and adapter.entry.revision.catalog_revision <= live.catalog_revision
        ]

    def drop(self, name: str) -> snapshot_pb2.AdapterEntry:
        """Give an adapter up. Its files stay until `remove_files`.

        Raises:
            KeyError: it was not fetched.
        """
        return self._fetched.pop(name).entry

    async def remove_files(self, entry: snapshot_pb2.AdapterEntry) -> None:
        """Remove the files of a dropped adapter, unless another one has the same weights."""
        digest = entry.revision.weights.digest
        if all(other.entry.revision.weights.digest != digest for other in self._fetched.values()):
            await self._cache.forget(digest)
