"""The active snapshot in the relay: an agent puts it there, and the next agent finds it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from dataplane.relay.actor import dumped
from dataplane.relay.messages import SerializedSnapshot
from dataplane.relay.relay import Relay
from dataplane.relay.snapshots import BASE, WHOLE, SerializedChange, SnapshotBase, read_snapshot
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.change import changed
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.snapshot.validation import validation_result
from dataplane.sync.snapshot_file import StoredSnapshot
from protocol.snapshot_limits import entry_bytes

_MIB = 1024 * 1024
CHANGES_MAX = 1_000
"""Changes in the relay before they are replaced by a whole snapshot, in the background. An ingress
replica that starts applies them, in about a second."""
_CHANGES_BYTES_MIN, _CHANGES_BYTES_MAX = 4 * _MIB, 64 * _MIB
"""Bytes of changes before the same happens: half of those of the snapshot, within these bounds."""
_HELD_UP_FACTOR = 2
"""With so many times more, the next snapshot is put whole, and waited for."""
_WHOLE_FROM = 16
"""Changes of fewer entries are put as a change, however small the snapshot is."""


class SnapshotPublisher:
    """Puts each active snapshot into the relay, mostly as a change of the one before.

    What the relay holds of it is bounded: a whole snapshot, and twice `CHANGES_MAX` changes with
    128 MiB, and one more change. `put` is for one task; `keep_compact` runs beside it.
    """

    def __init__(self, relay: Relay, *, rules: str) -> None:
        """
        Args:
            relay: The agent's.
            rules: From `validation_rules`.
        """
        self._relay = relay
        self._rules = rules
        self._last: Snapshot | None = None
        """What was put last. The next change begins at it."""
        self._withdrawn: frozenset[Position] = frozenset()
        self._changes: dict[str, int] = {}
        """Bytes of each change in the relay, by the name of its key, oldest first."""
        self._bytes = 0
        self._number = 0
        """Of the last change. Names of keys are in order, also over restarts of the agent."""
        self._whole_lock = asyncio.Lock()
        self._compaction_due = asyncio.Event()

    async def put(self, snapshot: Snapshot, *, withdrawn: Iterable[Position]) -> None:
        """Put `snapshot` into the relay, for every ingress replica.

        Args:
            snapshot: The snapshot to serve.
            withdrawn: Snapshots that may be replaced by this older one, because the agent crashed
                on them.
        """
        if self._last is None:
            await self._adopt_keys()
        withdrawn = frozenset(withdrawn)
        names = self._changed_names(snapshot) if withdrawn == self._withdrawn else None
        if names is None:
            async with self._whole_lock:
                self._withdrawn, self._last = withdrawn, snapshot
                await self._put_whole(snapshot)
        else:
            await self._put_change(snapshot, names)
        if self._is_over(snapshot, 1):
            self._compaction_due.set()

    async def keep_compact(self) -> None:
        """Replace many changes by a whole snapshot. Runs until it is cancelled."""
        while True:
            await self._compaction_due.wait()
            self._compaction_due.clear()
            async with self._whole_lock:
                if self._last is not None and self._is_over(self._last, 1):
                    await self._put_whole(self._last)

    async def _adopt_keys(self) -> None:
        """Find the changes that an earlier agent has left, to remove them with the first put."""
        found = (await self._relay.read([Topic.CHANGES])).values(Topic.CHANGES)
        self._changes = dict.fromkeys(sorted(found), 0)
        self._number = max((int(name) for name in found), default=0)

    def _changed_names(self, snapshot: Snapshot) -> list[str] | None:
        """The entries that differ from what was put last; None: it has to be put whole."""
        last = self._last
        if last is None or self._is_over(last, _HELD_UP_FACTOR):
            return None
        before, after = last.position, snapshot.position
        if before.store_uid != after.store_uid or after.revision < before.revision:
            return None
        names = snapshot.entries.by_name.changed_keys(last.entries.by_name)
        return names if len(names) <= max(_WHOLE_FROM, len(snapshot.entries) // 4) else None

    def _is_over(self, snapshot: Snapshot, factor: int) -> bool:
        bytes_max = min(_CHANGES_BYTES_MAX, max(_CHANGES_BYTES_MIN, snapshot.size_bytes // 2))
        return len(self._changes) >= factor * CHANGES_MAX or self._bytes >= factor * bytes_max

    async def _put_change(self, snapshot: Snapshot, names: list[str]) -> None:
        assert self._last is not None, "a change begins at the last snapshot"
        change = SerializedChange.between(self._last, snapshot, names, self._rules)
        self._number += 1
        key = Key(Topic.CHANGES, f"{self._number:020d}")
        size = sum(entry_bytes(entry.name, entry.type, len(entry.blob)) for entry in change.change.entries)
        self._changes[key.name] = size + sum(map(len, change.change.removed))
        self._bytes += self._changes[key.name]
        # Before the await: a whole snapshot that is put meanwhile has every change that it removes.
        self._last = snapshot
        await self._relay.put({key: change})

    async def _put_whole(self, snapshot: Snapshot) -> None:
        """Put a snapshot, and remove the changes up to it, all at once."""
        through = tuple(self._changes)
        whole = await asyncio.to_thread(self._serialized, snapshot)
        base = SnapshotBase(position=snapshot.position, withdrawn=self._withdrawn)
        for name in through:
            self._bytes -= self._changes.pop(name)
        removed = [Key(Topic.CHANGES, name) for name in through]
        await self._relay.put_pickled({WHOLE: whole, BASE: dumped(base)}, removed=removed)

    def _serialized(self, snapshot: Snapshot) -> bytes:
        validation = validation_result(snapshot, self._rules)
        return dumped(SerializedSnapshot.of(snapshot, validation, withdrawn=self._withdrawn))


async def find_snapshot(relay: Relay) -> StoredSnapshot | None:
    """What an earlier agent has put into service, and perhaps could not keep on disk."""
    found = await read_snapshot(relay)
    if found is None:
        return None
    position, entries, signed_head = found.whole.position, found.whole.entries(), found.whole.signed_head
    for following in found.following():
        entries = changed(entries, following.change)
        position, signed_head = following.position, following.signed_head
    return StoredSnapshot(position=position, entries=entries, signed_head=signed_head)
