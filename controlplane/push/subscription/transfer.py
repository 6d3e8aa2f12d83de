"""A snapshot on its way to a client. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Head, Position


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


@dataclass(slots=True)
class Transfer:
    """How much of a snapshot, or of a change, is written."""

    head: Head
    base: Position | None = None
    """Where the change begins; None: the whole snapshot is sent."""
    change_is_written: bool = False
    entries_written: int = 0
    chunks_written: int = 0
    last_name: str = ""

    @property
    def next_chunk(self) -> ChunkRequest | None:
        """The chunk to write next; None: all are written."""
        if self.change_is_written if self.base is not None else self.entries_written >= self.head.entry_count:
            return None
        return ChunkRequest(
            position=self.head.position, base=self.base, index=self.chunks_written, after_name=self.last_name
        )

    def written(self, chunk: pb.Chunk) -> None:
        """The chunk that was asked for is written."""
        self.entries_written += len(chunk.entries)
        self.chunks_written += 1
        self.last_name = last_name(chunk)


def last_name(chunk: pb.Chunk) -> str:
    """The greatest name in a chunk, of an entry or of a removal."""
    entry = chunk.entries[-1].ref.name if chunk.entries else ""
    return max(entry, chunk.removed[-1]) if chunk.removed else entry
