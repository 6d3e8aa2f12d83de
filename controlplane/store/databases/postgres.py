"""How PostgreSQL is used: one locked row orders catalog changes, and every wait has a limit.

Isolation. Writes run READ COMMITTED, and the first statement of a catalog change locks the
catalog's row. From then on no other catalog change alters anything that it reads, and each of its
statements sees everything committed before. REPEATABLE READ would take its view of the database
before it waits for that row, and so fail whenever it had to wait. Reads run REPEATABLE READ, READ
ONLY: the statements of one transaction see one state, and never wait for writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from controlplane import errors
from controlplane.store.databases.connection import Query, WriteConnection
from controlplane.store.databases.postgres_connection import PostgresConnection, driver_of, fetch

DRIVER = "postgresql+asyncpg"

CATALOG_CHANNEL = "broadsheet_catalog"
"""The NOTIFY channel that announces committed catalog revisions."""

CONNECTIONS_MAX = 16
"""Connections of one process by default. The server accepts 100 in all by default."""

CONNECTIONS_MIN = 4
"""Two for changes of the catalog, one for upkeep, one for readers."""

_STATEMENT_TIMEOUT_MS = 15_000
"""No statement of the store takes a second, so one that takes this long is stuck."""

_LOCK_TIMEOUT_MS = 5_000
"""For the catalog's row. Each other control plane has one group of changes ahead at most, which
takes a tenth of a second, and a rollback of the catalog."""

_IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000
"""A process that is stopped in the middle of a write must not hold the row for ever."""

_CONNECT_TIMEOUT_S = 5.0
_COMMAND_TIMEOUT_S = 20.0
"""Enforced by the client, for a server that cannot be reached. Above the server's timeout."""

_POOL_TIMEOUT_S = 5.0
_RECYCLE_S = 1800
"""Connections are replaced after half an hour: the memory of long-lived backends grows, and load
balancers cut old connections."""

_SETUP_LOCK = 0x62726F61647368  # "broadsh"
"""Key of the advisory lock for changes of the schema. Must stay the same for all releases."""

# SQLSTATEs of transactions that were rolled back, and may succeed when they are run again.
_SERIALIZATION_FAILURE = "40001"
_DEADLOCK = "40P01"
_RETRYABLE = frozenset({_SERIALIZATION_FAILURE, _DEADLOCK})


def check_url(url: URL) -> None:
    """Check that the URL names a database.

    Raises:
        errors.SetupError: It does not.
    """
    if not url.database:
        raise errors.SetupError(f"database url: must name a database, as in {DRIVER}://user@host/database")


class PostgresDatabase:
    """A PostgreSQL database, shared with other control planes."""

    def __init__(self, url: URL, *, connections_max: int) -> None:
        """
        Args:
            url: `postgresql+asyncpg://…`.
            connections_max: Connections of this process, at least CONNECTIONS_MIN.
        """
        self._url = url
        # Two for changes of the catalog: one group at a time, and compaction. An eighth for upkeep,
        # and the others for readers.
        self.writers_max = 2
        self.upkeep_max = max(1, connections_max // 8)
        self._pool = create_async_engine(
            url,
            pool_size=connections_max,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_S,
            pool_recycle=_RECYCLE_S,
            # Costs one round trip. Without it, requests fail after a restart of the server.
            pool_pre_ping=True,
            connect_args=_connect_args(),
        )
        self._reading = self._pool.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writing = self._pool.execution_options(isolation_level="READ COMMITTED")

    @property
    def name(self) -> str:
        return f"PostgreSQL database {self._url.database}"

    @property
    def engine(self) -> AsyncEngine:
        return self._reading

    def separate_engine(self) -> AsyncEngine:
        """An engine without a pool, for a task that keeps a connection for long."""
        return create_async_engine(self._url, poolclass=NullPool, connect_args=_connect_args())

    async def fetch(self, query: Query, key: Mapping[str, object]) -> Sequence[Row[Any]]:
        # A single statement sees one state also without a transaction around it.
        async with self._pool.connect() as connection:
            return await fetch(await driver_of(connection), query, key, connection.dialect)

    @asynccontextmanager
    async def begin_write(self) -> AsyncIterator[WriteConnection]:
        async with self._writing.begin() as connection:
            opened = PostgresConnection(connection, await driver_of(connection))
            yield opened
            await opened.flush()

    @asynccontextmanager
    async def begin_setup(self) -> AsyncIterator[AsyncConnection]:
        async with self._writing.begin() as connection:
            # A migration may take long, and other control planes wait for it.
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await connection.execute(text("SET LOCAL lock_timeout = 0"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SETUP_LOCK})
            yield connection

    async def finish_schema(self, connection: AsyncConnection) -> None:
        """Make all text compare by its bytes, as in SQLite.

        The order of a list must not depend on the locale of the server. This alters the finished
        schema, so that no migration can forget it.
        """
        columns = await connection.execute(
            text(
                "SELECT c.table_name, c.column_name, c.character_maximum_length FROM information_schema.columns c "
                "JOIN information_schema.tables t USING (table_schema, table_name) "
                "WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' "
                "AND c.data_type IN ('character varying', 'text') AND c.collation_name IS DISTINCT FROM 'C'"
            )
        )
        for table, column, length in columns.all():
            kind = "TEXT" if length is None else f"VARCHAR({length})"
            await connection.execute(text(f'ALTER TABLE "{table}" ALTER COLUMN "{column}" TYPE {kind} COLLATE "C"'))

    def is_retryable(self, error: Exception, *, committing: bool) -> bool:
        if not isinstance(error, DBAPIError):
            return False
        if error.connection_invalidated:
            # Without its connection a transaction is rolled back, unless COMMIT may have reached
            # the server.
            return not committing
        return getattr(error.orig, "sqlstate", None) in _RETRYABLE


def _connect_args() -> dict[str, Any]:
    return {
        "timeout": _CONNECT_TIMEOUT_S,
        "command_timeout": _COMMAND_TIMEOUT_S,
        "server_settings": {
            "application_name": "broadsheet-controlplane",
            "statement_timeout": str(_STATEMENT_TIMEOUT_MS),
            "lock_timeout": str(_LOCK_TIMEOUT_MS),
            "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_TIMEOUT_MS),
        },
    }
