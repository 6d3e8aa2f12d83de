"""The database of the control planes: snapshots that were committed, and records of data planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from controlplane.catalog.domain import DataPlaneRecord, Entry, Head, Position
from controlplane.errors import NotFound, Reason, Unavailable
from protocol.catalog_digest import CatalogDigest
from tests.simulation.parts.catalog import GHOST

Read = TypeVar("Read")

KEPT_REVISIONS = 6
"""Snapshots that retention keeps: data planes that are further behind get no change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A snapshot that was committed."""

    position: Position
    entries: Mapping[str, Entry]
    """By name, in order."""

    @property
    def head(self) -> Head:
        return Head(position=self.position, entry_count=len(self.entries))

    @property
    def is_dangling(self) -> bool:
        """Whether an entry refers to one that is missing."""
        return any(name.startswith(f"models/{GHOST}/") for name in self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryChange:
    """A `cutting.Change`."""

    name: str
    entry: Entry | None


class Store:
    """One store. A restored backup is another one."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.commits: dict[int, Committed] = {}
        """All, also those that retention has deleted, for comparison."""
        self.records: dict[str, DataPlaneRecord] = {}
        self.is_away = False
        """It answers nothing."""
        self.damaged_reads = 0
        """So many of the next reads leave an entry out: somebody has broken the database."""
        self._oldest = 0
        self._digest = CatalogDigest()
        self._entries: Mapping[str, Entry] = {}
        self._put(0, {})

    @classmethod
    def restored(cls, backup: Store, revision: int, uid: str) -> Store:
        """A store from a backup that was taken at `revision`."""
        store = cls(uid)
        for number, committed in backup.commits.items():
            if number <= revision:
                position = replace(committed.position, store_uid=uid)
                store.commits[number] = store._newest = replace(committed, position=position)
        store._oldest = min(backup._oldest, revision)
        store.records = dict(backup.records)
        store._entries = store._newest.entries
        for entry in store._entries.values():
            store._digest = store._digest.added(entry.name, entry.type, entry.digest)
        return store

    @property
    def head(self) -> Head:
        """The newest snapshot."""
        return self._newest.head

    def commit(self, entries: Mapping[str, Entry]) -> Committed:
        """Commit a snapshot with these entries."""
        self._put(self._newest.position.revision + 1, entries)
        return self._newest

    def purge(self, oldest_in_use: Sequence[int]) -> None:
        """Delete old snapshots, except for those that are being sent."""
        newest = self._newest.position.revision
        self._oldest = max(self._oldest, min((newest - KEPT_REVISIONS + 1, *oldest_in_use)))

    def _put(self, revision: int, entries: Mapping[str, Entry]) -> None:
        digest = self._digest
        for name, before in self._entries.items():
            if entries.get(name) is not before:
                digest = digest.removed(before.name, before.type, before.digest)
        for name, entry in entries.items():
            if self._entries.get(name) is not entry:
                digest = digest.added(entry.name, entry.type, entry.digest)
        self._digest, self._entries = digest, entries
        position = Position(store_uid=self.uid, revision=revision, digest=digest.root())
        ordered = {name: entries[name] for name in sorted(entries)}
        self._newest = self.commits[revision] = Committed(position=position, entries=ordered)

    # -- what the control plane reads --------------------------------------------------------------

    async def read_head(self) -> Head:
        self.check()
        return self.head

    async def read_entries(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        entries = self._kept(revision).entries
        found = [entry for name, entry in entries.items() if name > after_name][:limit]
        return self._as_read(found)

    async def read_changes(
        self, base: Position, to_revision: int, *, after_name: str, limit: int
    ) -> Sequence[EntryChange]:
        before, after = self._kept(base.revision).entries, self._kept(to_revision).entries
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) is not after.get(name))
        found = [EntryChange(name=name, entry=after.get(name)) for name in names if name > after_name][:limit]
        return self._as_read(found)

    async def read_refs(self, revision: int, *, after_name: str, limit: int) -> Sequence[Entry]:
        return await self.read_entries(revision, after_name=after_name, limit=limit)

    async def read_named(self, revision: int, names: Sequence[str]) -> Sequence[Entry]:
        entries = self._kept(revision).entries
        return self._as_read([entries[name] for name in names if name in entries])

    async def holds(self, position: Position) -> bool:
        self.check()
        kept = self.commits.get(position.revision)
        return kept is not None and kept.position == position and position.revision >= self._oldest

    def _kept(self, revision: int) -> Committed:
        self.check()
        if revision < self._oldest or revision not in self.commits:
            raise NotFound(Reason.REVISION_NOT_FOUND, f"revision {revision} is not kept")
        return self.commits[revision]

    def _as_read(self, found: list[Read]) -> list[Read]:
        if self.damaged_reads and found:
            self.damaged_reads -= 1
            del found[len(found) // 2]
        return found

    def check(self) -> None:
        """
        Raises:
            Unavailable: the database does not answer.
        """
        if self.is_away:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the simulated database is away")

    # -- records of data planes --------------------------------------------------------------------

    async def upsert_data_plane(self, *records: DataPlaneRecord) -> None:
        self.check()
        self.records.update({record.id: record for record in records})

    async def get_data_plane(self, data_plane_id: str) -> DataPlaneRecord | None:
        self.check()
        return self.records.get(data_plane_id)
