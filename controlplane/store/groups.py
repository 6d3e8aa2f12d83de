"""Group commit: changes of the catalog that wait together share one transaction.

Each change has its own catalog revision, audit event and answer, in the order in which they came.
One that is refused takes none with it. All of a group are acknowledged after its commit.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import DBAPIError

from controlplane import principal
from controlplane.catalog import domain
from controlplane.catalog.request_ids import RETENTION
from controlplane.principal import Origin, Principal
from controlplane.store import request_ids
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.doors import WriteDoor
from controlplane.store.fleet.waves import WavesRecord
from controlplane.store.revisions import NextRevision, Tip
from controlplane.store.transactions import WriteTransaction

T = TypeVar("T")

CHANGES_MAX = 64
"""Changes in one group: as many as clients at a time, and few enough to be done in some 50 ms."""

BYTES_MAX = 4 * 1024 * 1024
"""Bytes of snapshot entries after which a group takes no further change."""

TIME_MAX_S = 0.1
"""Age of a group after which it takes no further change. Other control planes wait for its lock."""


RUN_MAX_S = 0.005
"""How long changes are carried out before other tasks of the process have their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[T]):
    """A change that waits for its commit."""

    work: Callable[[WriteTransaction], Awaitable[T]]
    """Makes the change. May be run several times. An exception takes all of it back."""
    method: str
    """The call that makes it, such as `RegisterModel`."""
    resource: str
    """Name of the resource that it was called with."""
    principal: Principal
    origin: Origin
    dry_run: bool
    """Every check is made, and then all of it is taken back."""
    is_large: bool
    """It may take long, so it has a group of its own."""
    done: asyncio.Future[T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Its result, once it is durable. Cancelled: its caller is gone."""


@dataclass(slots=True)
class _Group:
    """The changes of one transaction. `outcomes` are those of the first changes."""

    changes: Sequence[Change[Any]]
    outcomes: list[Any] = field(default_factory=list)
    """What each returned or raised. Those without an outcome have to wait for the next group."""
    heads: list[domain.Head] = field(default_factory=list)
    """The snapshots that they made."""
    waves: WavesRecord | None = None
    """What they made of it; None: they did not touch it."""
    began_s: float = field(default_factory=time.monotonic)
    spoiled: bool = False
    """One of them made the database refuse a statement, so none of them can be committed."""


class GroupCommit:
    """Commits changes of the catalog in groups, one group at a time."""

    def __init__(
        self,
        door: WriteDoor,
        new_stamp: Callable[[int], domain.Stamp],
        publish: Callable[[domain.Head], None],
        measure: Callable[[int, float], None],
        publish_waves: Callable[[WavesRecord], None] = lambda record: None,
    ) -> None:
        """
        Args:
            door: Where the transactions run.
            new_stamp: What a change is marked with, given its catalog revision.
            publish: Called with each new head when it is durable. Must not block or raise.
            measure: Called after each commit that made a new head, with the number of new heads and
                the seconds from the wait for the lock on. Must not block or raise.
            publish_waves: Called with a changed record of the waves when it is durable, before the
                heads of its group. Must not block or raise.
        """
        self._door = door
        self._new_stamp = new_stamp
        self._publish = publish
        self._measure = measure
        self._publish_waves = publish_waves
        self._waiting: deque[Change[Any]] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def commit(self, change: Change[T]) -> T:
        """Carry out a change, and return its result when it is durable.

        Once begun, it goes on to its end even when the caller is cancelled. A caller that is
        cancelled before takes its change with it.

        Raises:
            errors.Unavailable: the database failed.
        """
        self._waiting.append(change)
        if self._committing is None or self._committing.done():
            # It works for all callers, so it inherits nothing from this one.
            self._committing = asyncio.create_task(self._commit_all(), context=contextvars.Context())
        return await change.done

    async def drain(self) -> None:
        """Wait until no change waits any more."""
        if self._committing is not None:
            await self._committing

    async def _commit_all(self) -> None:
        while changes := self._take():
            for change in reversed(await self._commit_together(changes)):
                self._waiting.appendleft(change)

    def _take(self) -> Sequence[Change[Any]]:
        """The next group: what waits now, and is not cancelled."""
        taken: list[Change[Any]] = []
        while self._waiting and len(taken) < CHANGES_MAX:
            if self._waiting[0].done.cancelled():
                self._waiting.popleft()
                continue
            if taken and self._waiting[0].is_large:
                break
            taken.append(self._waiting.popleft())
            if taken[-1].is_large:
                break
        return taken

    async def _commit_together(self, changes: Sequence[Change[Any]]) -> Sequence[Change[Any]]:
        """Commit a group. Returns the changes that have to wait for the next one."""
        group = _Group(changes)

        async def carry_out(connection: WriteConnection) -> _Group:
            nonlocal group
            group = _Group(changes)
            await self._carry_out(connection, group)
            return group

        try:
            await self._door.run(carry_out, on_commit=self._on_commit)
        except asyncio.CancelledError:
            # The process ends. What has begun goes on, and nobody is told how it ended.
            for change in changes:
                change.done.cancel()
            raise
        except BaseException as error:  # whatever it is, each caller must learn of it
            if group.spoiled and len(changes) > 1:
                # Each alone, so that only the one that cannot be committed fails.
                for change in changes:
                    await self._commit_together((change,))
            else:
                for change in changes:
                    _end(change, error)
            return ()
        for change, outcome in zip(changes, group.outcomes, strict=False):
            _end(change, outcome)
        return changes[len(group.outcomes) :]

    def _on_commit(self, group: _Group) -> None:
        if group.waves is not None:
            self._publish_waves(group.waves)
        # The newest first: a subscriber that needs no other has nothing to do for the others.
        for head in reversed(group.heads):
            self._publish(head)
        if group.heads:
            self._measure(len(group.heads), time.monotonic() - group.began_s)

    async def _carry_out(self, connection: WriteConnection, group: _Group) -> None:
        began, size_bytes = time.monotonic(), 0
        yield_at = began + RUN_MAX_S
        answers_kept, forget_until = 0, None
        tip = await Tip.lock(connection)
        for change in group.changes:
            if group.outcomes:
                if size_bytes >= BYTES_MAX or time.monotonic() - began >= TIME_MAX_S:
                    break
                if time.monotonic() >= yield_at:
                    # What else the process has to do goes on.
                    await asyncio.sleep(0)
                    yield_at = time.monotonic() + RUN_MAX_S
            stamp = self._new_stamp(tip.head.position.revision + 1)
            transaction = WriteTransaction(connection, NextRevision(connection, tip, stamp))
            connection.begin_change()
            try:
                result, new_tip = await _carry_out(transaction, change)
            except DBAPIError as error:
                group.spoiled = not error.connection_invalidated
                raise
            except (OSError, TimeoutError):
                raise
            except Exception as error:
                await connection.undo_change()
                group.outcomes.append(_Refused(error))
                continue
            if change.dry_run:
                await connection.undo_change()
            else:
                await connection.keep_change()
                size_bytes += transaction.entries.blob_bytes
                group.waves = transaction.waves.written or group.waves
                if transaction.request_ids.kept:
                    answers_kept += transaction.request_ids.kept
                    forget_until = stamp.now - RETENTION
                if new_tip is not None:
                    tip = new_tip
                    group.heads.append(tip.head)
            group.outcomes.append(result)
        if forget_until is not None:
            request_ids.delete_expired(connection, forget_until, kept=answers_kept)
        try:
            await connection.flush()
        except DBAPIError as error:
            group.spoiled = not error.connection_invalidated
            raise


@dataclass(frozen=True, slots=True)
class _Refused:
    error: Exception


async def _carry_out(transaction: WriteTransaction, change: Change[T]) -> tuple[T, Tip | None]:
    # The task is that of all changes, so it has no principal of its own.
    with principal.acting_as(change.principal), principal.called_from(change.origin):
        result = await change.work(transaction)
        tip = await transaction.finish(method=change.method, resource=change.resource, dry_run=change.dry_run)
        return result, tip


def _end(change: Change[Any], outcome: object) -> None:
    if change.done.done():
        # Its caller is gone.
        return
    if isinstance(outcome, _Refused):
        change.done.set_exception(outcome.error)
    elif isinstance(outcome, BaseException):
        change.done.set_exception(outcome)
    else:
        change.done.set_result(outcome)
