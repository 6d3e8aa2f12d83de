"""Collects a snapshot by its manifest: only what is not held is asked for. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.integrity import not_ordered, too_large
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import (
    BLOB_DIGEST_MISMATCH,
    ENTRY_COUNT_MISMATCH,
    ENTRY_NOT_WANTED,
    SNAPSHOT_TOO_LARGE,
    Rejection,
)
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.transitions import Input
from protocol.snapshot_limits import entry_bytes
from protocol.validation import shorten

_DIGEST_BYTES = 32


class ManifestAssembler:
    """Compares the refs of an announced snapshot with the entries that are held.

    Each chunk is cheap, so it may run on an event loop. Invariants: names of refs increase
    strictly; the sizes and numbers of entries are within the limits; of wanted entries, those of
    one chunk of refs are outstanding at most. It must not be used after it has returned a
    rejection.
    """

    def __init__(
        self,
        position: Position,
        entry_count: int,
        limits: Limits,
        *,
        base: Position | None,
        held: Iterable[RawEntry],
    ) -> None:
        """
        Args:
            position: The announced snapshot.
            entry_count: The number of its entries.
            limits: What this data plane accepts.
            base: The snapshot in service; None: there is none.
            held: The entries of `base`, ordered by name. They stay the same meanwhile.
        """
        self.position = position
        self._entry_count = entry_count
        self._limits = limits
        self._base = base
        self._held = held
        self._unread = iter(held)
        self._next_held = next(self._unread, None)
        self._refs = 0
        self._last_name = ""
        self._wanted: deque[snapshot_pb2.EntryRef] = deque()
        """What was asked for and has not come, in order."""
        self._entries: list[RawEntry] = []
        self._removed: list[str] = []
        self._bytes = 0

    @property
    def want(self) -> pb.Want:
        """The answer to the last chunk of refs."""
        digests = dict.fromkeys(ref.digest for ref in self._wanted)
        return pb.Want(to=self.position.to_proto(), digests=digests)

    def taken(self, chunk: pb.Chunk) -> Input:
        """What a chunk was, after it was added."""
        if chunk.refs:
            return Input.REFS_LACKED if self._wanted else Input.REFS_HELD
        return Input.CHUNK if self._wanted else Input.CHUNK_LAST

    def add(self, chunk: pb.Chunk) -> Rejection | None:
        """Take a chunk of refs, or of entries that were asked for."""
        if chunk.removed or (chunk.refs and chunk.entries):
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH, message="a chunk of a manifest has refs or entries, and nothing else"
            )
        return (self._compare(chunk.refs) if chunk.refs else self._fetch(chunk.entries)) or self._refuse_bytes()

    def _compare(self, refs: Sequence[snapshot_pb2.EntryRef]) -> Rejection | None:
        lacked: set[bytes] = set()
        for ref in refs:
            rejection = self._refuse_ref(ref)
            if rejection is not None:
                return rejection
            self._refs += 1
            self._last_name = ref.name
            known = self._held_as(ref.name)
            if known is None or known.type != ref.type or known.digest != ref.digest:
                lacked.add(ref.digest)
            else:
                self._bytes += entry_bytes(known.name, known.type, len(known.blob))
        # All with such a digest follow: a Want cannot tell them apart.
        self._wanted.extend(ref for ref in refs if ref.digest in lacked)
        return None

    def _refuse_ref(self, ref: snapshot_pb2.EntryRef) -> Rejection | None:
        if self._refs == self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH, message=f"more than the announced {self._entry_count} refs arrived"
            )
        if self._last_name >= ref.name:
            return not_ordered(self._last_name, ref.name)
        if len(ref.digest) != _DIGEST_BYTES:
            return Rejection(
                reason=BLOB_DIGEST_MISMATCH,
                message=f"the digest of {shorten(ref.name)} has {len(ref.digest)} bytes, not {_DIGEST_BYTES}",
            )
        return None

    def _held_as(self, name: str) -> RawEntry | None:
        """The entry that is held under a name. Held names before it are not in the snapshot."""
        while self._next_held is not None and self._next_held.name < name:
            self._removed.append(self._next_held.name)
            self._next_held = next(self._unread, None)
        if self._next_held is None or self._next_held.name != name:
            return None
        known, self._next_held = self._next_held, next(self._unread, None)
        return known

    def _fetch(self, entries: Sequence[snapshot_pb2.Entry]) -> Rejection | None:
        for message in entries:
            ref = message.ref
            if not self._wanted or self._wanted[0] != ref:
                return Rejection(reason=ENTRY_NOT_WANTED, message=f"{shorten(ref.name)} came, and was not asked for")
            self._wanted.popleft()
            entry = RawEntry(name=ref.name, type=ref.type, digest=ref.digest, blob=message.blob)
            if len(entry.blob) > self._limits.blob_bytes_max:
                return too_large(entry.name, len(entry.blob), self._limits)
            self._bytes += entry_bytes(entry.name, entry.type, len(entry.blob))
            self._entries.append(entry)
        return None

    def _refuse_bytes(self) -> Rejection | None:
        if self._bytes <= self._limits.total_bytes_max:
            return None
        return Rejection(reason=SNAPSHOT_TOO_LARGE, message=f"it has more than {self._limits.total_bytes_max} bytes")

    def complete(self) -> tuple[RawEntry, ...] | Change | Rejection:
        """Return what has arrived, once the end of the snapshot was announced.

        That is a change of the snapshot in service; all entries, if there is none, or if it is of
        another store.
        """
        if self._refs != self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH,
                message=f"{self._refs} refs arrived, {self._entry_count} were announced",
            )
        if self._next_held is not None:
            self._removed += [self._next_held.name, *(entry.name for entry in self._unread)]
        if self._base is None:
            return tuple(self._entries)
        change = Change(base=self._base, entries=tuple(self._entries), removed=frozenset(self._removed))
        return change if self._base.store_uid == self.position.store_uid else changed(tuple(self._held), change)
