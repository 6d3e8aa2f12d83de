"""Sees each statement of the stores of this process before it is run, so that it can fail there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.util import greenlet_spawn

from controlplane.store.databases import postgres_connection
from controlplane.store.databases.postgres_connection import PostgresConnection
from controlplane.store.databases.sqlite_connection import SqliteConnection

Observer = Callable[[Connection, str], None]
"""Called with the connection and the statement. What it raises fails the statement."""


@contextmanager
def observed(observe: Observer) -> Iterator[None]:
    """Call `observe` before each statement that is run in the block."""

    def before_cursor_execute(connection: Connection, cursor: object, statement: str, *more: object) -> None:
        observe(connection, statement)

    with pytest.MonkeyPatch.context() as patch:
        _observe_the_driver(patch, observe)
        event.listen(Engine, "before_cursor_execute", before_cursor_execute)
        try:
            yield
        finally:
            event.remove(Engine, "before_cursor_execute", before_cursor_execute)


def _observe_the_driver(patch: pytest.MonkeyPatch, observe: Observer) -> None:
    """Observe what goes past SQLAlchemy to PostgreSQL's driver, so that no event tells of it."""
    fetch, write_rows = PostgresConnection._fetch, PostgresConnection._write_rows

    async def tell(connection: PostgresConnection, *compiled: Any) -> None:
        sql = postgres_connection._compiled(*compiled, connection.dialect).sql
        await greenlet_spawn(observe, connection._connection.sync_connection, sql)

    async def observed_fetch(self: PostgresConnection, query: Any, key: Any) -> Any:
        await tell(self, query.statement, ())
        return await fetch(self, query, key)

    async def observed_write_rows(self: PostgresConnection, statement: Any, rows: Any) -> None:
        await tell(self, statement, tuple(rows[0]))
        await write_rows(self, statement, rows)

    patch.setattr(PostgresConnection, "_fetch", observed_fetch)
    patch.setattr(PostgresConnection, "_write_rows", observed_write_rows)


@contextmanager
def between_statements(wait: Callable[[], Any]) -> Iterator[None]:
    """Await `wait()` before each statement of a change on SQLite."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_fetch", "_write_rows", "_execute"):
            patch.setattr(SqliteConnection, name, _waiting(getattr(SqliteConnection, name), wait))
        yield


def _waiting(method: Callable[..., Any], wait: Callable[[], Any]) -> Callable[..., Any]:
    async def waiting(self: SqliteConnection, *arguments: Any) -> Any:
        await wait()
        return await method(self, *arguments)

    return waiting
