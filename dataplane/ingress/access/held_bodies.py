"""Counts the bytes of request bodies that this process holds, in all and by caller. Pure.

A body is held from its first byte until its request ends: while it is read, while the request waits
for a start or for room, and while it is answered, because another replica may have to be asked.
"""

from __future__ import annotations

from types import TracebackType

from dataplane.openai import errors as openai_errors


class HeldBodies:
    """The bodies that one ingress replica holds.

    A caller may hold as many bytes as stay free (the dynamic thresholds of Choudhury and Hahne,
    1998). So a single caller gets up to a half, of two each gets a third, and there is always room
    left for the next one. Invariant: `total` is the sum over all callers.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._by_caller: dict[str, int] = {}
        """Without zeros."""
        self.total = 0
        """Bytes held now."""

    def of(self, caller: str) -> HeldBody:
        """The body of a new request, still without a byte. Use it in a `with` block."""
        return HeldBody(self, caller)

    def take(self, caller: str, size: int) -> None:
        """Count `size` more bytes.

        Raises:
            openai_errors.BodiesOfCallerFull: The caller holds too many to have them too.
            openai_errors.BodiesFull: All callers together hold too many.
        """
        held, free = self._by_caller.get(caller, 0), self._max_bytes - self.total - size
        if held + size > free:
            if held:
                raise openai_errors.BodiesOfCallerFull(held, size)
            raise openai_errors.BodiesFull(self._max_bytes, size)
        self._by_caller[caller] = held + size
        self.total += size

    def give_back(self, caller: str, size: int) -> None:
        """Count `size` bytes less."""
        self.total -= size
        left = self._by_caller[caller] - size
        if left:
            self._by_caller[caller] = left
        else:
            del self._by_caller[caller]


class HeldBody:
    """The bytes of one body. Leaving its `with` block gives them back."""

    __slots__ = ("_bodies", "_caller", "_size")

    def __init__(self, bodies: HeldBodies, caller: str) -> None:
        self._bodies = bodies
        self._caller = caller
        self._size = 0

    def grow_to(self, size: int) -> None:
        """Hold `size` bytes in all. A smaller number than before changes nothing.

        Raises:
            openai_errors.BodiesOfCallerFull, openai_errors.BodiesFull
        """
        if size > self._size:
            self._bodies.take(self._caller, size - self._size)
            self._size = size

    def __enter__(self) -> HeldBody:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size:
            self._bodies.give_back(self._caller, self._size)
