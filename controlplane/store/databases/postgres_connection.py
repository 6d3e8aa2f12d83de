"""A write transaction on PostgreSQL.

Reads by key and inserts go to the driver directly: SQLAlchemy would take most of their time. All
rows of a table are inserted in one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import Dialect, Executable, Result, Row, Select
from sqlalchemy.engine.result import result_tuple
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

from controlplane.store.databases.connection import Parameters, Query, WriteConnection

_COMPILED_MAX = 256
"""Statements whose SQL is kept. The store has some dozens."""


class _Compiled(NamedTuple):
    """A statement in the terms of the driver."""

    sql: str
    parameters: Sequence[tuple[str, Callable[[Any], Any] | None]]
    """Name of each parameter in order, and what turns a value into one for the driver."""
    row: Callable[[Sequence[Any]], Row[Any]]
    """Makes a row of the driver's values."""

    def arguments(self, values: Mapping[str, Any]) -> Sequence[Any]:
        return [convert(values[name]) if convert is not None else values[name] for name, convert in self.parameters]


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
        compiled = _compiled(statement, tuple(rows[0]), self.dialect)
        assert self._driver.is_in_transaction(), "otherwise the driver would commit each statement"
        with _driver_errors(compiled.sql):
            await self._driver.executemany(compiled.sql, [compiled.arguments(row) for row in rows])

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
    compiled = _compiled(query.statement, (), dialect)
    with _driver_errors(compiled.sql):
        records = await driver.fetch(compiled.sql, *compiled.arguments(key))
    return [compiled.row(tuple(record)) for record in records]


@lru_cache(_COMPILED_MAX)
def _compiled(statement: Executable, columns: tuple[str, ...], dialect: Dialect) -> _Compiled:
    # The columns to insert or to set, unless the statement itself has them.
    column_keys = list(columns) if statement.is_insert or statement.is_update else None
    compiler = statement.compile(dialect=dialect, column_keys=column_keys)  # type: ignore[attr-defined]
    assert isinstance(compiler, SQLCompiler), "the store compiles no DDL"
    assert compiler.positiontup is not None, "the driver numbers its parameters"
    parameters = [
        (name, compiler.binds[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in compiler.positiontup
    ]
    selected = statement.selected_columns if isinstance(statement, Select) else ()
    converters = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in selected]
    make = result_tuple([column.name for column in selected])

    def row(values: Sequence[Any]) -> Row[Any]:
        return make([convert(value) if convert else value for value, convert in zip(values, converters, strict=True)])

    return _Compiled(compiler.string, parameters, row)


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
