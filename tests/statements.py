"""Sees each statement of the stores of this process before it is run, so that it can fail there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.util import greenlet_spawn

from controlplane.store.databases.compiled import compiled
from controlplane.store.databases.connection import WriteConnection
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
    """Observe what goes past SQLAlchemy to the driver, so that no event tells of it."""

    def observed(method: Callable[..., Any], columns_of: Callable[[Any], tuple[str, ...]]) -> Callable[..., Any]:
        async def run(self: WriteConnection, asked: Any, values: Any) -> Any:
            sql = compiled(getattr(asked, "statement", asked), columns_of(values), self.dialect).sql
            below: Any = self
            connection = below._connection
            await greenlet_spawn(observe, getattr(connection, "sync_connection", connection), sql)
            return await method(self, asked, values)

        return run

    for kind in (SqliteConnection, PostgresConnection):
        patch.setattr(kind, "_fetch", observed(kind._fetch, lambda key: ()))
        patch.setattr(kind, "_write_rows", observed(kind._write_rows, lambda rows: tuple(rows[0])))
