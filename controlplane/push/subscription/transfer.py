"""A snapshot on its way to a client. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Head, Position


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRequest:
    """The shell is to write the next chunk of this snapshot, then call `chunk_written`."""

    position: Position
    index: int
    """Chunks of it that are written."""
    after_name: str
    """Name of the last entry that is written; empty: none is."""


@dataclass(slots=True)
class Transfer:
    """How much of a snapshot is written."""

    head: Head
    entries_written: int = 0
    chunks_written: int = 0
    last_name: str = ""

    @property
    def next_chunk(self) -> ChunkRequest | None:
        """The chunk to write next; None: all are written."""
        if self.entries_written >= self.head.entry_count:
            return None
        return ChunkRequest(position=self.head.position, index=self.chunks_written, after_name=self.last_name)

    def written(self, chunk: pb.Chunk) -> None:
        """The chunk that was asked for is written."""
        self.entries_written += len(chunk.entries)
        self.chunks_written += 1
        self.last_name = chunk.entries[-1].ref.name
