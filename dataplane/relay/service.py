"""The relay as a service: calls and long polls around the pure core. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence

from dataplane.relay.errors import WriterReplacedError
from dataplane.relay.mailbox import Mail, Mailbox
from dataplane.relay.state import Cursor, Limits, PutResult, RelayState, StoredChanges
from dataplane.relay.topics import Key, Watched, Writer
from dataplane.relay.waiting import WaitingIndex

POLL_TIMEOUT_S = 20.0
"""A long poll is answered after this long at the latest, so that calls of dead processes end."""

WATCHERS_MAX = 8_000
"""Long polls at a time. An engine replica has one; ingress replicas and the agent have two."""

_MESSAGES_MAX = 10_000
"""Messages that wait for the agent. They are taken at once unless it is being restarted."""
_MESSAGES_BYTES_MAX = 32 * 1024 * 1024
_MESSAGES_PER_TAKE_MAX = 1_000


class RelayService:
    """What the relay's actor runs. `Relay` is its client."""

    def __init__(self, *, started_at_ns: int) -> None:
        """
        Args:
            started_at_ns: The time on this node's clock. A restarted relay numbers agents above
                those of before, if its clock is not behind.
        """
        self._started_at_ns = started_at_ns
        self._state = RelayState(epoch=uuid.uuid4().hex, limits=Limits())
        self._waiting: WaitingIndex[asyncio.Future[None]] = WaitingIndex(watchers_max=WATCHERS_MAX)
        self._mailbox = Mailbox(
            messages_max=_MESSAGES_MAX, bytes_max=_MESSAGES_BYTES_MAX, batch_max=_MESSAGES_PER_TAKE_MAX
        )
        self._has_mail = asyncio.Event()

    async def claim(self, writer: Writer) -> int:
        """The incarnation of an agent that starts.

        A relay that was restarted may not know the old agent yet. If its clock is also behind, the
        new agent is refused once it does, and the next agent gets a higher number.
        """
        return self._state.claim(writer, self._started_at_ns)

    async def put(self, writer: Writer, values: dict[Key, bytes], removed: Sequence[Key]) -> PutResult:
        """Set and remove keys of a writer. See `RelayState.put`."""
        now = time.monotonic()
        self._wake(self._state.expire(now))
        result = self._state.put(writer, values, removed, now)
        self._wake([*values, *removed])
        return result

    async def watch(self, watched: Sequence[Watched], cursor: Cursor | None) -> StoredChanges:
        """What has changed since `cursor`. Waits for a change, for `POLL_TIMEOUT_S` at most.

        A cursor of None, or of before a restart, is answered at once with all that there is.
        """
        changes = self._state.changes(watched, cursor)
        if changes.changed or changes.removed or changes.is_complete:
            return changes
        changed = asyncio.get_running_loop().create_future()
        self._waiting.add(watched, changed)
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S):
                await changed
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(watched, changed)
        return self._state.changes(watched, cursor)

    async def send(self, messages: Sequence[bytes]) -> None:
        """Put messages into the agent's mailbox."""
        self._mailbox.add(messages)
        self._has_mail.set()

    async def receive(self, writer: Writer, epoch: str, taken_to: int) -> tuple[str, Mail]:
        """The next messages. Waits for some, for `POLL_TIMEOUT_S` at most.

        Args:
            writer: the agent.
            epoch: from the previous answer. After a restart since, nothing is acknowledged.
            taken_to: from the previous answer. Messages up to it are forgotten.

        Raises:
            WriterReplacedError: a newer agent runs.
        """
        taken_to = taken_to if epoch == self._state.epoch else 0
        deadline = asyncio.get_running_loop().time() + POLL_TIMEOUT_S
        while True:
            if not self._state.is_current(writer):
                raise WriterReplacedError(f"{writer.name}: a newer process takes the messages")
            mail = self._mailbox.take(taken_to)
            if mail.messages:
                return self._state.epoch, mail
            self._has_mail.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._has_mail.wait()
            except TimeoutError:
                return self._state.epoch, mail

    def _wake(self, keys: Sequence[Key]) -> None:
        for changed in self._waiting.waiting_for(keys):
            if not changed.done():
                changed.set_result(None)
