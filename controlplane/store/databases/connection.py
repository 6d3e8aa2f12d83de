"""What the statements of a write transaction run on, the same for both databases.

Rows to insert wait in memory. They are written together, before the first statement that could miss
them, or at the commit. So a group of changes costs few statements, and a change that is refused has
mostly written nothing yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Dialect, Executable, Result, Row, Select, Table

from controlplane.store.databases.pending import PendingWrites

PENDING_MAX = 1000
"""Rows that wait in memory at most. The largest have 256 KiB, and most have 1 KiB."""

PENDING_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of blobs that wait in memory at most, together with one more row."""

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Query:
    """Asks for the rows with a given key. Made once, so that its SQL is made once."""

    def __init__(self, statement: Select[Any], *tables: Table, key: tuple[str, ...] = ()) -> None:
        """
        Args:
            statement: Has these parameters.
            tables: Where it looks for rows with this key: the first columns of the primary key of
                each. Rows of other tables that it joins are inserted before those of these.
            key: Names of the parameters, in the order of the primary key.
        """
        self.statement = statement
        self.tables = tables
        self.key = key


class Statements(Protocol):
    """A connection in a transaction, for reading."""

    async def execute(self, statement: Executable, parameters: Parameters | None = None, /) -> Result[Any]:
        """Run any statement."""


class WriteConnection(ABC):
    """A connection in a transaction that may write.

    A transaction is one change, or several in turn. Each begins with `begin_change`, and ends with
    `keep_change` or `undo_change`.
    """

    dialect: Dialect

    def __init__(self) -> None:
        self._pending = PendingWrites()
        self._in_change = False
        self._has_savepoint = False

    async def execute(self, statement: Executable, parameters: Parameters | None = None, /) -> Result[Any]:
        """Run any statement. It sees all that was written before."""
        await self.flush()
        if not statement.is_select:
            await self._protect()
        return await self._execute(statement, parameters)

    async def execute_many(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that writes once for each of these parameters, at least one."""
        await self.flush()
        await self._protect()
        await self._write_rows(statement, rows)

    async def fetch(self, query: Query, **key: object) -> Sequence[Row[Any]]:
        """The rows with this key, as `execute` would find them."""
        values = tuple([key[name] for name in query.key])
        if any(self._pending.has(table, values) for table in query.tables):
            await self.flush()
        return await self._fetch(query, key)

    async def insert(self, table: Table, row: Mapping[str, Any], *, or_ignore: bool = False) -> None:
        """Insert a row, now or later.

        Args:
            table: Where.
            row: Its values by column.
            or_ignore: The row may exist already. Then it stays as it is.
        """
        self._pending.insert(table, row, or_ignore=or_ignore)
        if self._pending.count >= PENDING_MAX or self._pending.blob_bytes >= PENDING_BYTES_MAX:
            await self.flush()

    def put_last(self, table: Table, statement: Executable, parameters: Mapping[str, Any]) -> None:
        """Run this statement after the rows that wait, in place of an earlier one for `table`.

        It changes few rows, and returns none that are needed.
        """
        self._pending.put_last(table, statement, parameters)

    async def flush(self) -> None:
        """Write what waits."""
        await self._write(self._pending.take_before_mark())
        if self._pending.is_empty:
            return
        await self._protect()
        await self._write(self._pending.take())

    def begin_change(self) -> None:
        """From now on, what is written belongs to the next change."""
        assert not self._in_change, "changes of a transaction take turns"
        self._in_change = True
        self._pending.mark()

    async def keep_change(self) -> None:
        """The change goes into the commit."""
        if self._has_savepoint:
            await self._release_savepoint()
        self._pending.mark()
        self._in_change = self._has_savepoint = False

    async def undo_change(self) -> None:
        """Take back all that the change wrote. What was written before it stays."""
        self._pending.drop_after_mark()
        if self._has_savepoint:
            await self._rollback_to_savepoint()
            await self._release_savepoint()
        self._in_change = self._has_savepoint = False

    async def _protect(self) -> None:
        """Make sure that what follows can be undone without what was written before."""
        if self._in_change and not self._has_savepoint:
            await self._savepoint()
            self._has_savepoint = True

    async def _write(self, pending: PendingWrites) -> None:
        for statement, rows in pending.statements(self.dialect):
            await self._write_rows(statement, rows)

    @abstractmethod
    async def _execute(self, statement: Executable, parameters: Parameters | None) -> Result[Any]:
        """Run any statement."""

    @abstractmethod
    async def _fetch(self, query: Query, key: Mapping[str, object]) -> Sequence[Row[Any]]:
        """Run a query that reads few rows."""

    @abstractmethod
    async def _write_rows(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of these parameters. What it returns is dropped."""

    @abstractmethod
    async def _savepoint(self) -> None:
        """Set the savepoint of a change."""

    @abstractmethod
    async def _release_savepoint(self) -> None:
        """Forget the savepoint, and keep what was written since."""

    @abstractmethod
    async def _rollback_to_savepoint(self) -> None:
        """Take back what was written since the savepoint."""
