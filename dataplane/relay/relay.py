"""The relay as its users see it: put keys, watch topics, send and receive messages.

Values and messages are pickled here, so that the actor passes them on as bytes that it does not
read.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import structlog

from dataplane.relay.actor import dumped, pack_call
from dataplane.relay.errors import RelayFullError
from dataplane.relay.mailbox import Mail
from dataplane.relay.messages import Message
from dataplane.relay.state import Cursor, PutResult, StoredChanges
from dataplane.relay.topics import UNCLAIMED, Key, Topic, Watched, Writer

_RETRY_S = 0.5
"""Between tries while the actor is being restarted, or is full."""
_LARGE_BYTES = 1024 * 1024
"""Of an answer: with more, it is unpickled in a thread."""

_log = structlog.get_logger("dataplane.relay.relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a watcher found."""

    epoch: str
    """A new value: the relay was restarted empty, and every process puts its keys again."""
    is_complete: bool
    """`changed` is all that there is of what is watched. A key that is not in it is gone.

    True for the first answer, after a restart of the relay, and for a watcher that fell too far
    behind."""
    changed: Mapping[Key, Any]
    removed: frozenset[Key]
    """Empty when `is_complete`."""

    def values(self, topic: Topic) -> dict[str, Any]:
        """The changed values of one topic, by the name of the key."""
        return {key.name: value for key, value in self.changed.items() if key.topic == topic}


class Relay:
    """The relay, for one process.

    Args:
        writer: How this process writes; None: it only reads.
        open_actor: Returns a handle of the actor. It may start it, and may block: `open_relay` of
            the data plane.
    """

    def __init__(self, writer: Writer | None, *, open_actor: Callable[[], Any]) -> None:
        self._writer = writer
        self._claiming = asyncio.Lock()
        self._open_actor = open_actor
        self._actor: Any = None
        self._own: dict[Key, bytes] = {}
        """All that this process has put, for a relay that was restarted."""
        self._epoch = ""

    async def put(self, values: Mapping[Key, Any], *, removed: Iterable[Key] = ()) -> None:
        """Set and remove keys. They are put again when the relay has lost them.

        Raises:
            WriterReplacedError: a newer process has this writer's name.
            NotOwnerError: a key is another writer's.
        """
        await self.put_pickled({key: dumped(value) for key, value in values.items()}, removed=removed)

    async def put_pickled(self, values: Mapping[Key, bytes], *, removed: Iterable[Key] = ()) -> None:
        """The same for values that were `dumped` before: large ones in a thread."""
        removed = tuple(removed)
        self._own.update(values)
        for key in removed:
            self._own.pop(key, None)
        await self._write((*values, *removed))

    async def read(self, watched: Sequence[Watched]) -> Changes:
        """All that there is now."""
        return await self.watcher(watched).next()

    def watcher(self, watched: Sequence[Watched], *, pace_s: float = 0.0) -> Watcher:
        """Follow topics or single keys.

        Args:
            watched: What to follow.
            pace_s: The shortest time between two answers. Changes in that time share an answer.
        """
        return Watcher(self, tuple(watched), pace_s)

    async def send(self, messages: Iterable[Message]) -> None:
        """Send messages to the agent.

        They are lost when the relay is restarted before the agent has taken them.
        """
        pickled = [dumped(message) for message in messages]
        await self.call("send", lambda: (pickled,))

    def inbox(self) -> Inbox:
        """The messages to this agent."""
        return Inbox(self)

    async def note_epoch(self, epoch: str) -> None:
        """Put everything again if the relay was restarted since this process last put."""
        if self._epoch and epoch != self._epoch:
            await self._write(())

    async def call(self, method: str, arguments: Callable[[], tuple[Any, ...]]) -> Any:
        """Call the actor. Repeats the call while the actor is being restarted or is full.

        Args:
            method: Of `RelayService`.
            arguments: Computed for each try, so that a late try does not restore an old value.
        """
        while True:
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(self._open_actor)
                return _loaded(await self._actor.call.remote(pack_call(method, arguments())))
            except ray.exceptions.RayActorError as error:
                _log.warning("relay_unavailable", method=method, error=str(error))
                self._actor = None
            except RelayFullError as error:
                _log.error("relay_full", method=method, error=str(error))
            await asyncio.sleep(_RETRY_S)

    async def _write(self, keys: Sequence[Key]) -> None:
        """Bring the relay's values of `keys` to those of this process."""
        writer = await self.current_writer()
        result: PutResult = await self.call("put", lambda: (writer, *self._own_of(keys)))
        self._epoch = result.epoch
        if result.is_new_writer and not self._own.keys() <= set(keys):
            result = await self.call("put", lambda: (writer, dict(self._own), ()))
            self._epoch = result.epoch

    def _own_of(self, keys: Sequence[Key]) -> tuple[dict[Key, bytes], list[Key]]:
        """The values that `keys` have, and those that have none any more."""
        values = {key: self._own[key] for key in keys if key in self._own}
        return values, [key for key in keys if key not in self._own]

    async def current_writer(self) -> Writer:
        """How this process writes, numbered by the relay if it is an agent."""
        if self._writer is None:
            raise RuntimeError("this process only reads from the relay")
        async with self._claiming:
            if self._writer.incarnation == UNCLAIMED:
                unclaimed = self._writer
                self._writer = replace(unclaimed, incarnation=await self.call("claim", lambda: (unclaimed,)))
        return self._writer


class Watcher:
    """Follows topics or keys. For use by a single task."""

    def __init__(self, relay: Relay, watched: Sequence[Watched], pace_s: float) -> None:
        self._relay = relay
        self._watched = watched
        self._pace_s = pace_s
        self._cursor: Cursor | None = None
        self._answered_at = float("-inf")

    async def next(self) -> Changes:
        """Everything the first time, at once; then what has changed since the last time.

        Waits for a change. Without one it returns empty changes after 20 s.
        """
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, self._answered_at + self._pace_s - clock()))
        stored: StoredChanges = await self._relay.call("watch", lambda: (self._watched, self._cursor))
        self._answered_at = clock()
        self._cursor = stored.cursor
        await self._relay.note_epoch(stored.cursor.epoch)
        return Changes(
            epoch=stored.cursor.epoch,
            is_complete=stored.is_complete,
            changed=await _all_loaded(stored.changed),
            removed=frozenset(stored.removed),
        )


class Inbox:
    """The agent's messages, in order. For use by a single task."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._epoch = ""
        self._taken_to = 0
        self._dropped = 0

    async def next(self) -> tuple[Message, ...]:
        """The next messages. Waits for some; without any it returns none after 20 s.

        Each call acknowledges the messages of the previous call. If an agent ends before it calls
        again, the next agent receives them again, so a message may be handled twice.

        Raises:
            WriterReplacedError: a newer agent runs.
        """
        mail: Mail
        writer = await self._relay.current_writer()
        epoch, mail = await self._relay.call("receive", lambda: (writer, self._epoch, self._taken_to))
        if epoch != self._epoch:
            self._epoch, self._dropped = epoch, 0
            await self._relay.note_epoch(epoch)
        if mail.dropped > self._dropped:
            _log.error("messages_dropped", count=mail.dropped - self._dropped)
        self._taken_to, self._dropped = mail.taken_to, mail.dropped
        return tuple(_loaded(message) for message in mail.messages)


async def _all_loaded(values: Mapping[Key, bytes]) -> dict[Key, Any]:
    def load() -> dict[Key, Any]:
        return {key: _loaded(value) for key, value in values.items()}

    # A whole snapshot takes a tenth of a second.
    is_large = sum(map(len, values.values())) > _LARGE_BYTES
    return await asyncio.to_thread(load) if is_large else load()


def _loaded(value: bytes) -> Any:
    # From processes of the same cluster, which Ray lets run code here anyway.
    return pickle.loads(value)  # noqa: S301
