"""A snapshot on its way to a client. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Head, Position

Refs = Mapping[bytes, tuple[str, ...]]
"""Names of the entries with each digest. Read only: streams share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """The shell is to find out whether a change can be sent, then call `announce`."""

    base: Position
    """What the client serves."""
    head: Head
    """The snapshot that it is to serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRequest:
    """The shell is to write the next chunk of this snapshot, then call `chunk_written`.

    After the last chunk of a change it calls `change_written`.
    """

    position: Position
    base: Position | None = None
    """Where the change begins; None: the whole snapshot is sent."""
    index: int
    """Chunks of it that are written."""
    after_name: str
    """Name of the last entry that is written; empty: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefsRequest:
    """The shell is to write the next refs of a manifest, then call `chunk_written`."""

    position: Position
    after_name: str
    """Name of the last ref that is written; empty: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRequest:
    """The shell is to write a chunk of these entries, then call `chunk_written`."""

    position: Position
    names: tuple[str, ...]
    """Of the entries, in order. All of them were in the last chunk of refs."""
    after_name: str
    """Name of the last of them that is written; empty: none is."""


PieceRequest = ChunkRequest | RefsRequest | WantedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a stream has to know of a chunk that is written to it."""

    last_name: str
    """The greatest name in it, of an entry, a removal or a ref."""
    entries: int = 0
    """Its entries."""
    refs: Refs = field(default_factory=dict)
    """Its refs."""
    refs_count: int = 0


@dataclass(slots=True)
class Transfer:
    """How much of a snapshot, of a change or of a manifest is written.

    Its memory is bounded: of a manifest, it has the last chunk of refs and what is wanted of it.
    """

    head: Head
    mode: pb.Intent.Mode.ValueType = pb.Intent.MODE_FULL
    base: Position | None = None
    """Where the change begins; None: it is none."""
    refs: Refs = field(default_factory=dict)
    """Of the last chunk of refs, until its Want has come."""
    _change_is_written: bool = False
    _entries_written: int = 0
    """MODE_MANIFEST: refs."""
    chunks_written: int = 0
    _last_name: str = ""
    _wanted: tuple[str, ...] = ()
    _wanted_written: str = ""
    """Name of the last wanted entry that is written."""

    @property
    def next_piece(self) -> PieceRequest | None:
        """What to write next; None: all is written."""
        position = self.head.position
        if self._wanted:
            return WantedRequest(position=position, names=self._wanted, after_name=self._wanted_written)
        is_written = (
            self._change_is_written if self.base is not None else self._entries_written >= self.head.entry_count
        )
        if is_written:
            return None
        if self.mode == pb.Intent.MODE_MANIFEST:
            return RefsRequest(position=position, after_name=self._last_name)
        return ChunkRequest(position=position, base=self.base, index=self.chunks_written, after_name=self._last_name)

    def change_is_written(self) -> None:
        """The change has no more chunks."""
        self._change_is_written = True

    def written(self, chunk: Written) -> None:
        """The piece that was asked for is written."""
        self.chunks_written += 1
        if self._wanted:
            self._wanted_written = chunk.last_name
            if chunk.last_name >= self._wanted[-1]:
                self._wanted = ()
            return
        self._entries_written += chunk.refs_count or chunk.entries
        self._last_name = chunk.last_name
        self.refs = chunk.refs

    def want(self, names: tuple[str, ...]) -> None:
        """The client has answered the refs: it lacks the entries with these names, in order."""
        self.refs = {}
        self._wanted, self._wanted_written = names, ""


def written_of(chunk: pb.Chunk) -> Written:
    """What a stream has to know of `chunk`."""
    refs: dict[bytes, tuple[str, ...]] = {}
    for ref in chunk.refs:
        refs[ref.digest] = (*refs.get(ref.digest, ()), ref.name)
    last_names = [
        *(entry.ref.name for entry in chunk.entries[-1:]),
        *chunk.removed[-1:],
        *(ref.name for ref in chunk.refs[-1:]),
    ]
    return Written(
        last_name=max(last_names, default=""), entries=len(chunk.entries), refs=refs, refs_count=len(chunk.refs)
    )
