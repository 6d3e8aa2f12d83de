"""Revocations on the Sync streams of a data plane: what arrives, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.revoked_keys import RevocationsPosition
from dataplane.sync.revocations.reports import RevocationReports
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import State

WAITING_MAX = 4
"""Batches that wait to be taken. Nothing more is read from the stream then."""


def _nothing() -> None:
    return None


class RevocationStream:
    """Moves revocations between the Sync client and who takes them. `run` must be running."""

    def __init__(self, take: Callable[[pb.Revocations], Awaitable[bool]]) -> None:
        """
        Args:
            take: Takes a batch. Returns False if others have to come before it.
        """
        self._take = take
        self._reports = RevocationReports()
        self._waiting: asyncio.Queue[pb.Revocations] = asyncio.Queue(WAITING_MAX)
        self._wake = self._restart = _nothing

    # -- for the Sync client -----------------------------------------------------------------------

    def connect(self, *, wake: Callable[[], None], restart: Callable[[], None]) -> None:
        """Set what to call.

        Args:
            wake: There is a message to write.
            restart: The stream has to begin again, with a new Hello.
        """
        self._wake, self._restart = wake, restart

    def open(self) -> None:
        """A stream begins. What the one before has left unread is sent again."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._reports.open()

    async def receive(self, response: pb.SyncResponse) -> bool:
        """Take a message. Returns whether it was one of revocations, and nothing else."""
        revocations = self._reports.receive(response)
        if revocations is not None:
            await self._waiting.put(revocations)
        return revocations is not None

    def next_message(self, subscriber: Subscriber) -> pb.SyncRequest | None:
        """What to write next: what `subscriber` has to say comes first. None: nothing."""
        message = subscriber.take_message()
        if message is not None:
            return self._reports.fill(message)
        if subscriber.state is State.CLOSED:
            return None
        return self._reports.take_message(subscriber.serving, with_errors=subscriber.with_errors)

    async def run(self) -> None:
        """Have what arrives taken, one batch after the other. Runs until it is cancelled."""
        while True:
            if not await self._take(await self._waiting.get()):
                self._restart()

    # -- for who takes them ------------------------------------------------------------------------

    def kept(self, position: RevocationsPosition) -> None:
        """They are known up to here: the next Hello asks for those after it."""
        self._reports.kept = position

    def restart(self) -> None:
        """Begin the stream again, which asks for what is not known."""
        self._restart()

    def applied(self, position: RevocationsPosition, warning: str) -> None:
        """Report what every ingress replica applies, and what operators must know."""
        self._reports.apply(position, warning)
        self._wake()
