"""A write transaction on SQLite.

Reads by key and inserts touch a few pages, take some microseconds, and run where they are called. A
thread would cost ten times as much, since the two threads of a busy process wait for each other.
What may take longer runs in a thread: BEGIN, COMMIT, which waits for the disk, and all other
statements.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, Result, Row
from sqlalchemy.exc import DBAPIError, IntegrityError

from controlplane.store.databases.compiled import compiled
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
        return fetch(self._connection, query, key)

    async def _write_rows(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        for_driver = compiled(statement, tuple(rows[0]), self.dialect)
        with _driver_errors(for_driver.sql):
            _driver_of(self._connection).executemany(for_driver.sql, [for_driver.arguments(row) for row in rows])

    async def _savepoint(self) -> None:
        self._connection.exec_driver_sql("SAVEPOINT change")

    async def _release_savepoint(self) -> None:
        self._connection.exec_driver_sql("RELEASE change")

    async def _rollback_to_savepoint(self) -> None:
        self._connection.exec_driver_sql("ROLLBACK TO change")


def fetch(connection: Connection, query: Query, key: Mapping[str, object]) -> Sequence[Row[Any]]:
    """The rows with this key."""
    for_driver = compiled(query.statement, (), connection.dialect)
    with _driver_errors(for_driver.sql):
        rows = _driver_of(connection).execute(for_driver.sql, for_driver.arguments(key)).fetchall()
    return [for_driver.row(row) for row in rows]


def _driver_of(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection), "engines of writers have no other driver"
    return driver


@contextmanager
def _driver_errors(sql: str) -> Iterator[None]:
    """Raise what SQLAlchemy raises in place of the driver's errors."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise IntegrityError(sql, None, error) from error
    except sqlite3.Error as error:
        raise DBAPIError(sql, None, error) from error


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
