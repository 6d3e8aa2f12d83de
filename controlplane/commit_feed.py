"""The feed of commits: where every new catalog revision is announced. Pure.

The store publishes what this process commits. On a shared database, `fleet` also publishes what it
learns of the commits of other control planes.
"""

from __future__ import annotations

from collections.abc import Callable

from controlplane.catalog.domain import Head


class CommitFeed:
    """Announces each new head to all subscribers, in the order in which they subscribed."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Head], None]] = []

    def subscribe(self, subscriber: Callable[[Head], None]) -> None:
        """Announce to `subscriber` from now on, for as long as the process runs.

        Args:
            subscriber: Called with each head once its commit is durable. Heads may come in any
                order and repeatedly. Must not block or raise.
        """
        self._subscribers.append(subscriber)

    def publish(self, head: Head) -> None:
        """Announce `head`, whose commit is durable."""
        for subscriber in self._subscribers:
            subscriber(head)
