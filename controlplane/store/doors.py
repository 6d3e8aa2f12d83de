"""Runs write transactions through two doors: one for catalog changes, one for upkeep.

A door limits how many run at a time, retries those that the database aborts, and lets each finish
even if its caller is cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from controlplane.store.databases.connection import WriteConnection
from controlplane.store.databases.database import Database
from controlplane.store.databases.failures import database_errors

WRITE_ATTEMPTS_MAX = 4
"""Attempts in all, when the database gives a transaction up in favour of another."""

_RETRY_AFTER_S = 0.02
"""Wait before the second attempt, in seconds; doubled before each further one."""

_log = structlog.get_logger("controlplane.store.doors")

T = TypeVar("T")


class WriteDoor:
    """Write transactions that take turns, a bounded number at a time.

    The store has two. Changes of the catalog wait for the lock on the catalog, in the first. Upkeep
    that does not need this lock goes through the second, so it never waits in that queue.
    """

    def __init__(
        self, database: Database, at_once_max: int, *, measure: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """
        Args:
            database: Where the transactions run.
            at_once_max: Transactions at a time. Each takes a connection of the database.
            measure: What is around each transaction, with its repetitions.
        """
        self._measure = measure
        self._database = database
        self._turns = asyncio.Semaphore(at_once_max)
        self._running: set[asyncio.Task[object]] = set()

    async def run(
        self, change: Callable[[WriteConnection], Awaitable[T]], *, on_commit: Callable[[T], None] = lambda result: None
    ) -> T:
        """Run `change` in a transaction of its own, and commit it.

        Once begun, it goes on to its end even when the caller is cancelled: a commit cannot be
        taken back, and `on_commit` must be called.

        Args:
            change: Executes the statements. May be run several times. An exception rolls back.
            on_commit: Called with the result when the commit is durable. Must not block or raise.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def run() -> T:
            try:
                with self._measure(), database_errors():
                    result = await self._committed(change)
                on_commit(result)
                return result
            finally:
                self._turns.release()

        await self._turns.acquire()
        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait until the transactions that were begun have ended."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _committed(self, change: Callable[[WriteConnection], Awaitable[T]]) -> T:
        for attempt in itertools.count(1):
            committing = False
            try:
                async with self._database.begin_write() as connection:
                    result = await change(connection)
                    await connection.flush()
                    committing = True
                return result
            except DBAPIError as error:
                if attempt == WRITE_ATTEMPTS_MAX or not self._database.is_retryable(error, committing=committing):
                    raise
                _log.info("write_retried", attempt=attempt, error=type(error.orig).__name__)
                await asyncio.sleep(_RETRY_AFTER_S * 2 ** (attempt - 1))
        raise AssertionError("the loop ends by itself")

    def _on_done(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Marks the exception as retrieved: the caller may be gone.
            task.exception()
