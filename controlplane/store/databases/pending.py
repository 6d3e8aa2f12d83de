"""The rows that wait in memory to be inserted together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Dialect, Executable, Table, insert
from sqlalchemy.dialects import postgresql, sqlite


class _Insert(NamedTuple):
    table: Table
    row: Mapping[str, Any]
    or_ignore: bool


class _Last(NamedTuple):
    statement: Executable
    parameters: Mapping[str, Any]


class PendingWrites:
    """Rows to insert, in order, and statements of which only the last for a table is run.

    Those after the mark can be dropped alone.
    """

    def __init__(self, inserts: Sequence[_Insert] = (), last: Mapping[Table, _Last] = MappingProxyType({})) -> None:
        self._inserts = list(inserts)
        self._last = dict(last)
        self._keys: set[tuple[Table, tuple[object, ...]]] | None = None
        self._mark = 0
        self._last_at_mark: Mapping[Table, _Last] = {}
        self.blob_bytes = 0
        """Bytes of all values of type bytes."""
        self._blob_bytes_at_mark = 0

    @property
    def count(self) -> int:
        """Rows that wait."""
        return len(self._inserts)

    @property
    def is_empty(self) -> bool:
        return not self._inserts and not self._last

    def insert(self, table: Table, row: Mapping[str, Any], *, or_ignore: bool) -> None:
        """Add a row."""
        self._inserts.append(_Insert(table, row, or_ignore))
        for value in row.values():
            if isinstance(value, bytes):
                self.blob_bytes += len(value)
        if self._keys is not None:
            self._keys.update(_keys(table, row))

    def put_last(self, table: Table, statement: Executable, parameters: Mapping[str, Any]) -> None:
        """Run this statement after the inserts, instead of an earlier one for the same table."""
        self._last[table] = _Last(statement, parameters)

    def has(self, table: Table, key: tuple[object, ...]) -> bool:
        """Whether a row that waits has this key: values of the first columns of the primary key."""
        if self._keys is None:
            self._keys = {found for item in self._inserts for found in _keys(item.table, item.row)}
        return (table, key) in self._keys

    def mark(self) -> None:
        """What is added from now on can be dropped alone."""
        self._mark, self._last_at_mark, self._blob_bytes_at_mark = len(self._inserts), dict(self._last), self.blob_bytes

    def drop_after_mark(self) -> None:
        """Drop what was added since the mark."""
        del self._inserts[self._mark :]
        self._last, self.blob_bytes, self._keys = dict(self._last_at_mark), self._blob_bytes_at_mark, None

    def take_before_mark(self) -> PendingWrites:
        """Remove and return what was added before the mark."""
        taken = PendingWrites(self._inserts[: self._mark], self._last_at_mark)
        del self._inserts[: self._mark]
        self._last = {table: last for table, last in self._last.items() if last is not self._last_at_mark.get(table)}
        self._mark, self._last_at_mark, self._keys = 0, {}, None
        self.blob_bytes -= self._blob_bytes_at_mark
        self._blob_bytes_at_mark = 0
        return taken

    def take(self) -> PendingWrites:
        """Remove and return everything."""
        self.mark()
        return self.take_before_mark()

    def statements(self, dialect: Dialect) -> Iterator[tuple[Executable, Sequence[Mapping[str, Any]]]]:
        """The statements to run, each with the parameters to run it with.

        Tables come in the order of their references, so that a row comes after those it refers to.
        """
        rows = defaultdict[tuple[Table, tuple[str, ...], bool], list[Mapping[str, Any]]](list)
        for item in self._inserts:
            rows[item.table, tuple(item.row), item.or_ignore].append(item.row)
        for table, columns, or_ignore in sorted(rows, key=lambda key: _place(key[0])):
            yield _statement(table, columns, or_ignore, dialect.name), rows[table, columns, or_ignore]
        for last in self._last.values():
            yield last.statement, (last.parameters,)


def _keys(table: Table, row: Mapping[str, Any]) -> Iterator[tuple[Table, tuple[object, ...]]]:
    key = tuple([row[column] for column in _key_columns(table)])
    return ((table, key[:length]) for length in range(1, len(key) + 1))


@cache
def _key_columns(table: Table) -> Sequence[str]:
    return table.primary_key.columns.keys()


@cache
def _place(table: Table) -> int:
    return table.metadata.sorted_tables.index(table)


@cache
def _statement(table: Table, columns: tuple[str, ...], or_ignore: bool, dialect_name: str) -> Executable:
    if not or_ignore:
        return insert(table)
    if dialect_name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
