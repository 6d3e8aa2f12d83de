"""Cuts snapshots, changes and manifests into chunks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.transfer import Written, written_of
from protocol.snapshot_limits import CHUNK_BYTES_MAX

_PAGE_ITEMS_MIN = 16
_PAGE_ITEMS_MAX = 2000


class Item(Protocol):
    """What a chunk is cut from."""

    @property
    def name(self) -> str:
        """Items are ordered by it."""

    @property
    def size_bytes(self) -> int:
        """What it takes in a chunk, about."""

    def put_into(self, chunk: pb.Chunk) -> None:
        """Add it."""


ReadItems = Callable[[str, int], Awaitable[Sequence[Item]]]
"""Up to so many items after this name, by name."""


class Piece(NamedTuple):
    """A chunk, encoded once for all streams that get it, and what they have to know of it."""

    content: bytes
    """A serialised SyncResponse."""
    written: Written


class Cutter:
    """Cuts items into chunks, and reads at most a page ahead.

    The end of a chunk depends on the content alone: cut again from the same place, it is the same.
    """

    def __init__(self, read: ReadItems, *, after_name: str = "") -> None:
        """
        Args:
            read: Where the items are.
            after_name: Leave out names up to and including this one. Empty: from the first.
        """
        self._read = read
        self._after_name = after_name
        self._pending: list[Item] = []
        self._page_items = _PAGE_ITEMS_MIN
        self._exhausted = False

    @property
    def is_done(self) -> bool:
        """Whether the last chunk has been cut."""
        return self._exhausted and not self._pending

    async def next_chunk(self) -> Piece | None:
        """The next chunk; None after the last."""
        while not self._exhausted and self._pending_bytes() <= CHUNK_BYTES_MAX:
            await self._read_page()
        count = _chunk_length(self._pending)
        if count == 0:
            return None
        chunk = pb.Chunk()
        for item in self._pending[:count]:
            item.put_into(chunk)
        del self._pending[:count]
        return Piece(pb.SyncResponse(chunk=chunk).SerializeToString(), written_of(chunk))

    def _pending_bytes(self) -> int:
        return sum(item.size_bytes for item in self._pending)

    async def _read_page(self) -> None:
        page = await self._read(self._after_name, self._page_items)
        self._pending.extend(page)
        self._exhausted = len(page) < self._page_items
        if page:
            self._after_name = page[-1].name
            # About a chunk for each page: an item may be of 100 bytes or of 256 KiB.
            mean_bytes = sum(item.size_bytes for item in page) // len(page)
            self._page_items = min(max(CHUNK_BYTES_MAX // mean_bytes, _PAGE_ITEMS_MIN), _PAGE_ITEMS_MAX)


def _chunk_length(items: Iterable[Item]) -> int:
    """How many of `items` go into a chunk; at least 1, unless there are none."""
    size = 0
    count = 0
    for item in items:
        size += item.size_bytes
        if count and size > CHUNK_BYTES_MAX:
            break
        count += 1
    return count
