"""Where a repository's statements run: in a transaction of their own, or in an open one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from controlplane.store.databases.connection import Statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a repository reads with. All statements in one `begin()` block see one state."""

    begin: Callable[[], AbstractAsyncContextManager[Statements]]
    """Begins a transaction for reading, or hands out the one that is open."""
    now: Callable[[], datetime]
    """The time in UTC, aware. Deleted resources are hidden from their purge time on."""

    @classmethod
    def within(cls, connection: Statements, now: datetime) -> Reading:
        """Reads in the transaction that is open on `connection`, as of `now`."""
        return cls(begin=lambda: nullcontext(connection), now=lambda: now)

    def on(self, connection: Statements) -> Reading:
        """The same, in the transaction that is open on `connection`."""
        return Reading(begin=lambda: nullcontext(connection), now=self.now)
