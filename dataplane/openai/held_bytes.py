"""A budget of bytes that clients make a server hold. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

Holder = TypeVar("Holder", bound=Hashable)


class HeldBytes(Generic[Holder]):
    """Who holds how many bytes. Over the budget, those who have held theirs longest give way.

    A newcomer is not refused: else those who hold for ever would keep all others out.
    """

    def __init__(self, *, bytes_max: int, bytes_per_network_max: int) -> None:
        """
        Args:
            bytes_max: For all holders together.
            bytes_per_network_max: For the holders of one network.
        """
        self._bytes_max = bytes_max
        self._bytes_per_network_max = bytes_per_network_max
        self._held: dict[Holder, tuple[Hashable, int]] = {}
        """Network and bytes, in the order in which they began to hold; the same in the next."""
        self._by_network: dict[Hashable, dict[Holder, None]] = {}
        self._bytes_of_network: Counter[Hashable] = Counter()
        self._bytes = 0

    @property
    def total(self) -> int:
        """Bytes that are held."""
        return self._bytes

    def hold(self, holder: Holder, network: Hashable, held_bytes: int) -> list[Holder]:
        """Let a holder hold so many bytes in place of those that it held so far.

        Returns:
            Who has to give way, perhaps the holder itself. They hold nothing any more.
        """
        before = self._held.get(holder)
        if before is None:
            self._by_network.setdefault(network, {})[holder] = None
        change = held_bytes - (before[1] if before is not None else 0)
        self._held[holder] = (network, held_bytes)
        self._bytes += change
        self._bytes_of_network[network] += change
        gone = []
        while self._bytes_of_network[network] > self._bytes_per_network_max:
            gone.append(next(iter(self._by_network[network])))
            self.release(gone[-1])
        while self._bytes > self._bytes_max:
            gone.append(next(iter(self._held)))
            self.release(gone[-1])
        return gone

    def release(self, holder: Holder) -> None:
        """Hold nothing any more. Nothing happens if it held nothing."""
        if (held := self._held.pop(holder, None)) is None:
            return
        network, held_bytes = held
        self._bytes -= held_bytes
        self._bytes_of_network[network] -= held_bytes
        del self._by_network[network][holder]
        if not self._by_network[network]:
            del self._by_network[network]
            del self._bytes_of_network[network]
