"""A write transaction on SQLite.

Reads by key and inserts touch a few pages, take some microseconds, and run where they are called. A
thread would cost ten times as much, since the two threads of a busy process wait for each other.
What may take longer runs in a thread: BEGIN, COMMIT, which waits for the disk, and all other
statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, Result, Row

from controlplane.store.databases.connection import Parameters, Query, WriteConnection

T = TypeVar("T")


class SqliteConnection(WriteConnection):
    """A connection in a transaction that has begun."""

    def __init__(self, connection: Connection, thread: Executor) -> None:
        super().__init__()
        self._connection = connection
        self._thread = thread
        self.dialect = connection.dialect

    async def _execute(self, statement: Executable, parameters: Parameters | None) -> Result[Any]:
        def run() -> Result[Any]:
            result = self._connection.execute(statement, parameters)
            # All rows, because SQLite finds a row only when it is asked for.
            return result.freeze()() if result.returns_rows else result

        return await in_thread(self._thread, run)

    async def _fetch(self, query: Query, key: Mapping[str, object]) -> Sequence[Row[Any]]:
        return self._connection.execute(query.statement, key).all()

    async def _write_rows(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        self._connection.execute(statement, rows)

    async def _savepoint(self) -> None:
        self._connection.exec_driver_sql("SAVEPOINT change")

    async def _release_savepoint(self) -> None:
        self._connection.exec_driver_sql("RELEASE change")

    async def _rollback_to_savepoint(self) -> None:
        self._connection.exec_driver_sql("ROLLBACK TO change")


@asynccontextmanager
async def transaction(connection: Connection, thread: Executor) -> AsyncIterator[SqliteConnection]:
    """A transaction on `connection`. Commits at the end of the block, or rolls back.

    Args:
        connection: Not in a transaction. It is closed if the transaction fails to end.
        thread: Runs one function at a time.
    """
    begun = await in_thread(thread, connection.begin)
    try:
        opened = SqliteConnection(connection, thread)
        yield opened
        await opened.flush()
    except BaseException:
        await in_thread(thread, lambda: _end(connection, begun.rollback))
        raise
    await in_thread(thread, lambda: _end(connection, begun.commit))


def _end(connection: Connection, end: Callable[[], None]) -> None:
    try:
        end()
    except BaseException:
        # A commit that fails, as on a full disk, leaves the transaction open.
        connection.close()
        raise


async def in_thread(thread: Executor, function: Callable[[], T]) -> T:
    """Run `function` in the thread."""
    return await asyncio.get_running_loop().run_in_executor(thread, function)
