"""Collects the chunks of one announced snapshot or change, within limits. Pure."""

from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.change import Change
from dataplane.snapshot.integrity import not_ordered
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import (
    BLOB_TOO_LARGE,
    ENTRY_COUNT_MISMATCH,
    SNAPSHOT_TOO_LARGE,
    Rejection,
)
from dataplane.snapshot.snapshot import Position, RawEntry
from protocol.snapshot_limits import entry_bytes
from protocol.validation import shorten


class Assembler:
    """Collects the content of one announced snapshot: its entries, or what differs from another.

    Each chunk is cheap, so it may run on an event loop; the expensive checks are in `accept`.
    Invariants: names of entries increase strictly, and so do those of removals; `_bytes` and the
    numbers of entries and removals are within `limits`. It must not be used after it has returned a
    rejection.
    """

    def __init__(
        self,
        position: Position,
        entry_count: int,
        limits: Limits,
        *,
        base: Position | None = None,
        signed_head: bytes = b"",
    ) -> None:
        """
        Args:
            position: The announced snapshot.
            entry_count: The number of its entries.
            limits: What this data plane accepts.
            base: Where the announced change begins; None: all entries follow.
            signed_head: The serialised SignedHead that was announced. It is kept for the caller.
        """
        self.position = position
        self.signed_head = signed_head
        self._entry_count = entry_count
        self._limits = limits
        self._base = base
        self._entries: list[RawEntry] = []
        self._removed: list[str] = []
        self._bytes = 0

    def refuse_announcement(self) -> Rejection | None:
        """Check the announced number of entries, before any is collected."""
        if 0 <= self._entry_count <= self._limits.entries_max:
            return None
        return Rejection(
            reason=SNAPSHOT_TOO_LARGE,
            message=f"it has {self._entry_count} entries, allowed are 0 to {self._limits.entries_max}",
        )

    def add(self, chunk: pb.Chunk) -> Rejection | None:
        """Add the content of one chunk."""
        for message in chunk.entries:
            entry = RawEntry(name=message.ref.name, type=message.ref.type, digest=message.ref.digest, blob=message.blob)
            rejection = self._refuse(entry)
            if rejection is not None:
                return rejection
            self._entries.append(entry)
        for name in chunk.removed:
            rejection = self._refuse_removal(name)
            if rejection is not None:
                return rejection
            self._removed.append(name)
        return None

    def _refuse(self, entry: RawEntry) -> Rejection | None:
        if len(self._entries) == self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH, message=f"more than the announced {self._entry_count} entries arrived"
            )
        if self._entries and self._entries[-1].name >= entry.name:
            return not_ordered(self._entries[-1].name, entry.name)
        if len(entry.blob) > self._limits.blob_bytes_max:
            return Rejection(
                reason=BLOB_TOO_LARGE,
                message=f"{shorten(entry.name)} has {len(entry.blob)} bytes, allowed are {self._limits.blob_bytes_max}",
            )
        return self._refuse_bytes(entry_bytes(entry.name, entry.type, len(entry.blob)))

    def _refuse_removal(self, name: str) -> Rejection | None:
        if self._base is None or len(self._removed) == self._limits.entries_max:
            allowed = 0 if self._base is None else self._limits.entries_max
            return Rejection(reason=ENTRY_COUNT_MISMATCH, message=f"more than {allowed} removals arrived")
        if self._removed and self._removed[-1] >= name:
            return not_ordered(self._removed[-1], name)
        return self._refuse_bytes(len(name))

    def _refuse_bytes(self, more: int) -> Rejection | None:
        self._bytes += more
        if self._bytes > self._limits.total_bytes_max:
            return Rejection(
                reason=SNAPSHOT_TOO_LARGE, message=f"it has more than {self._limits.total_bytes_max} bytes"
            )
        return None

    def complete(self) -> tuple[RawEntry, ...] | Change | Rejection:
        """Return what has arrived, once the end of the snapshot was announced."""
        if self._base is not None:
            return Change(base=self._base, entries=tuple(self._entries), removed=frozenset(self._removed))
        if len(self._entries) != self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH,
                message=f"{len(self._entries)} entries arrived, {self._entry_count} were announced",
            )
        return tuple(self._entries)
