"""A write transaction on PostgreSQL.

Reads by key and inserts go to the driver directly: SQLAlchemy would take most of their time. All
rows of a table are inserted in one round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg
from sqlalchemy import Dialect, Executable, Result, Row
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.store.databases.compiled import compiled
from controlplane.store.databases.connection import Parameters, Query, WriteConnection


class PostgresConnection(WriteConnection):
    """A connection in a transaction that may write."""

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection) -> None:
        """
        Args:
            connection: In a transaction.
            driver: The driver's connection below it.
        """
        super().__init__()
        self._connection = connection
        self._driver = driver
        self.dialect = connection.dialect

    async def _execute(self, statement: Executable, parameters: Parameters | None) -> Result[Any]:
        return await self._connection.execute(statement, parameters)

    async def _fetch(self, query: Query, key: Mapping[str, object]) -> Sequence[Row[Any]]:
        if not self._driver.is_in_transaction():
            # SQLAlchemy begins the transaction with the first statement that it runs.
            return (await self._execute(query.statement, key)).all()
        return await fetch(self._driver, query, key, self.dialect)

    async def _write_rows(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        if not self._driver.is_in_transaction():
            # SQLAlchemy begins the transaction with the first statement that it runs.
            await self._execute(statement, rows)
            return
        for_driver = compiled(statement, tuple(rows[0]), self.dialect)
        with _driver_errors(for_driver.sql):
            await self._driver.executemany(for_driver.sql, [for_driver.arguments(row) for row in rows])

    async def _savepoint(self) -> None:
        await self._connection.exec_driver_sql("SAVEPOINT change")

    async def _release_savepoint(self) -> None:
        await self._connection.exec_driver_sql("RELEASE SAVEPOINT change")

    async def _rollback_to_savepoint(self) -> None:
        await self._connection.exec_driver_sql("ROLLBACK TO SAVEPOINT change")


async def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """The driver's connection below `connection`."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, asyncpg.Connection), "the pool has connections of this driver"
    return driver


async def fetch(
    driver: asyncpg.Connection, query: Query, key: Mapping[str, object], dialect: Dialect
) -> Sequence[Row[Any]]:
    """The rows with this key."""
    for_driver = compiled(query.statement, (), dialect)
    with _driver_errors(for_driver.sql):
        records = await driver.fetch(for_driver.sql, *for_driver.arguments(key))
    return [for_driver.row(tuple(record)) for record in records]


@contextmanager
def _driver_errors(sql: str) -> Iterator[None]:
    """Raise what SQLAlchemy raises in place of the driver's errors."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        raise IntegrityError(sql, None, error) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        lost = isinstance(error, asyncpg.PostgresConnectionError | asyncpg.InterfaceError | asyncpg.AdminShutdownError)
        raise DBAPIError(sql, None, error, connection_invalidated=lost) from error
