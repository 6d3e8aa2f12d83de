"""A bounded queue of messages that are taken once. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """Messages that wait to be taken, oldest first."""

    messages: tuple[bytes, ...]
    taken_to: int
    """To acknowledge them: pass it to the next `take`."""
    dropped: int
    """Messages dropped since the mailbox was made, because it was full."""


class Mailbox:
    """Messages for a single reader.

    Each message has a number and stays until the reader acknowledges it. If the reader dies while
    it handles a message, its successor gets it again: delivery is at least once, in order. A full
    mailbox drops its oldest messages, because requests may still wait for the newest.
    """

    def __init__(self, *, messages_max: int, bytes_max: int, batch_max: int) -> None:
        self._messages: deque[bytes] = deque()
        self._first = 1
        """Number of the oldest message."""
        self._bytes = 0
        self._dropped = 0
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._batch_max = batch_max

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, messages: Iterable[bytes]) -> None:
        """Append messages."""
        for message in messages:
            self._messages.append(message)
            self._bytes += len(message)
            while len(self._messages) > self._messages_max or self._bytes > self._bytes_max:
                self._drop_oldest()
                self._dropped += 1

    def take(self, taken_to: int) -> Mail:
        """The oldest messages after number `taken_to`. Those up to it are forgotten.

        Args:
            taken_to: from the `Mail` before; 0 takes everything that waits.
        """
        while self._messages and self._first <= taken_to:
            self._drop_oldest()
        batch = tuple(self._messages[at] for at in range(min(len(self._messages), self._batch_max)))
        return Mail(messages=batch, taken_to=self._first + len(batch) - 1, dropped=self._dropped)

    def _drop_oldest(self) -> None:
        self._bytes -= len(self._messages.popleft())
        self._first += 1
