"""Collects the chunks of one announced snapshot, within limits. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.integrity import not_ordered
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import BLOB_TOO_LARGE, ENTRY_COUNT_MISMATCH, SNAPSHOT_TOO_LARGE, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry
from protocol.snapshot_limits import entry_bytes
from protocol.validation import shorten


class Assembler:
    """Collects the entries of one announced snapshot.

    Each chunk is cheap, so it may run on an event loop; the expensive checks are in `accept`.
    Invariants: names increase strictly; `_bytes` and the number of entries are within `limits`.
    It must not be used after it has returned a rejection.
    """

    def __init__(self, position: Position, entry_count: int, limits: Limits) -> None:
        self.position = position
        self._entry_count = entry_count
        self._limits = limits
        self._entries: list[RawEntry] = []
        self._bytes = 0

    def refuse_announcement(self) -> Rejection | None:
        """Check the announced number of entries, before any is collected."""
        if 0 <= self._entry_count <= self._limits.entries_max:
            return None
        return Rejection(
            reason=SNAPSHOT_TOO_LARGE,
            message=f"it has {self._entry_count} entries, allowed are 0 to {self._limits.entries_max}",
        )

    def add(self, entries: Iterable[snapshot_pb2.Entry]) -> Rejection | None:
        """Add the entries of one chunk."""
        for message in entries:
            entry = RawEntry(name=message.ref.name, type=message.ref.type, digest=message.ref.digest, blob=message.blob)
            rejection = self._refuse(entry)
            if rejection is not None:
                return rejection
            self._entries.append(entry)
        return None

    def _refuse(self, entry: RawEntry) -> Rejection | None:
        if len(self._entries) == self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH, message=f"more than the announced {self._entry_count} entries arrived"
            )
        if self._entries and self._entries[-1].name >= entry.name:
            return not_ordered(self._entries[-1], entry)
        if len(entry.blob) > self._limits.blob_bytes_max:
            return Rejection(
                reason=BLOB_TOO_LARGE,
                message=f"{shorten(entry.name)} has {len(entry.blob)} bytes, allowed are {self._limits.blob_bytes_max}",
            )
        self._bytes += entry_bytes(entry.name, entry.type, len(entry.blob))
        if self._bytes > self._limits.total_bytes_max:
            return Rejection(
                reason=SNAPSHOT_TOO_LARGE, message=f"it has more than {self._limits.total_bytes_max} bytes"
            )
        return None

    def complete(self) -> tuple[RawEntry, ...] | Rejection:
        """Return all entries, once the end of the snapshot was announced."""
        if len(self._entries) != self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH,
                message=f"{len(self._entries)} entries arrived, {self._entry_count} were announced",
            )
        return tuple(self._entries)
