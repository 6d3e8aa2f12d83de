"""Where a repository's statements run: in a transaction of their own, or in an open one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Row

from controlplane.store.databases.connection import Query, Statements, WriteConnection


class Fetch(Protocol):
    """`WriteConnection.fetch`, or what does the same for a reader."""

    async def __call__(self, query: Query, **key: object) -> Sequence[Row[Any]]:
        """The rows with this key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a repository reads with. All statements in one `begin()` block see one state."""

    begin: Callable[[], AbstractAsyncContextManager[Statements]]
    """Begins a transaction for reading, or hands out the one that is open."""
    fetch: Fetch
    """Runs a query by a key in a transaction of its own, or in the one that is open."""
    now: Callable[[], datetime]
    """The time in UTC, aware. Deleted resources are hidden from their purge time on."""

    @classmethod
    def within(cls, connection: WriteConnection, now: datetime) -> Reading:
        """Reads in the transaction that is open on `connection`, as of `now`."""
        return cls(begin=lambda: nullcontext(connection), fetch=connection.fetch, now=lambda: now)

    def on(self, connection: Statements) -> Reading:
        """The same, in the transaction that is open on `connection`."""

        async def fetch(query: Query, **key: object) -> Sequence[Row[Any]]:
            return (await connection.execute(query.statement, key)).all()

        return Reading(begin=lambda: nullcontext(connection), fetch=fetch, now=self.now)
