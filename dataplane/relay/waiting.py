"""An index of waiting watchers, by topic and key. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Generic, TypeVar

from dataplane.relay.errors import RelayFullError
from dataplane.relay.topics import Key, Watched

_T = TypeVar("_T")


class WaitingIndex(Generic[_T]):
    """Tokens of waiting watchers, by what they wait for.

    Finding those that wait for a key takes time in proportion to how many they are.
    """

    def __init__(self, *, watchers_max: int) -> None:
        self._tokens: dict[Watched, set[_T]] = {}
        self._count = 0
        self._watchers_max = watchers_max

    def __len__(self) -> int:
        return self._count

    def add(self, watched: Collection[Watched], token: _T) -> None:
        """Let `token` wait for a change of what is `watched`.

        Raises:
            RelayFullError: too many wait already.
        """
        if self._count >= self._watchers_max:
            raise RelayFullError(f"{self._count} watchers wait already, which is the limit")
        self._count += 1
        for topic_or_key in watched:
            self._tokens.setdefault(topic_or_key, set()).add(token)

    def discard(self, watched: Collection[Watched], token: _T) -> None:
        """End the waiting of `token`, with the same `watched` as in `add`."""
        self._count -= 1
        for topic_or_key in watched:
            tokens = self._tokens[topic_or_key]
            tokens.discard(token)
            if not tokens:
                del self._tokens[topic_or_key]

    def waiting_for(self, keys: Iterable[Key]) -> set[_T]:
        """The tokens that wait for any of these keys, or for a topic of theirs."""
        found: set[_T] = set()
        for key in keys:
            found.update(self._tokens.get(key.topic, ()), self._tokens.get(key, ()))
        return found
