"""What the store needs of a database, and how a database of either kind is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Row
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controlplane import errors
from controlplane.store.databases import postgres as store_postgres
from controlplane.store.databases import sqlite as store_sqlite
from controlplane.store.databases.connection import Query, WriteConnection


class Database(Protocol):
    """A database that is open."""

    writers_max: int
    """Catalog changes of this process at a time."""
    upkeep_max: int
    """Upkeep transactions of this process at a time, in addition."""

    @property
    def name(self) -> str:
        """Its name for messages. Holds no password."""

    @property
    def engine(self) -> AsyncEngine:
        """For reads. All statements of one transaction see one state."""

    async def fetch(self, query: Query, key: Mapping[str, object]) -> Sequence[Row[Any]]:
        """The rows with this key, as they are now."""

    def begin_write(self) -> AbstractAsyncContextManager[WriteConnection]:
        """A transaction that may write. Commits at the end of the block, or rolls back."""

    def begin_setup(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction that may change the schema: of all processes that open the database, one at
        a time has it."""

    async def finish_schema(self, connection: AsyncConnection) -> None:
        """Set what must hold for every table, after the migrations."""

    def is_retryable(self, error: Exception, *, committing: bool) -> bool:
        """Whether a write that failed with `error` can be run again.

        True only if it left nothing behind and may succeed the next time.

        Args:
            error: The exception.
            committing: COMMIT may have been sent.
        """


def parse_url(url: str) -> URL:
    """A database URL of a supported kind.

    Raises:
        errors.SetupError: The URL is wrong. It is not shown, as it may hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise errors.SetupError("database url: not a URL") from None
    if parsed.drivername == store_sqlite.DRIVER:
        store_sqlite.database_path(parsed)
    elif parsed.drivername == store_postgres.DRIVER:
        store_postgres.check_url(parsed)
    else:
        raise errors.SetupError(
            f"database url: got {parsed.drivername}://…; "
            f"allowed are {store_sqlite.DRIVER}:///path and {store_postgres.DRIVER}://user@host/database"
        )
    return parsed


@asynccontextmanager
async def open_database(url: str, *, connections_max: int, only_read: bool = False) -> AsyncIterator[Database]:
    """The database at `url`.

    Args:
        url: `sqlite+aiosqlite:///path/to/file` or `postgresql+asyncpg://user@host/database`.
        connections_max: Connections to PostgreSQL at a time.
        only_read: Nothing will be written, so another process may hold the SQLite file.

    Raises:
        errors.SetupError: the URL is wrong, or another process holds the file.
    """
    parsed = parse_url(url)
    if parsed.drivername == store_sqlite.DRIVER:
        path = store_sqlite.database_path(parsed)
        with store_sqlite.present(path) if only_read else store_sqlite.exclusively(path):
            sqlite = store_sqlite.SqliteDatabase(path)
            try:
                yield sqlite
            finally:
                await sqlite.close()
        return
    postgres = store_postgres.PostgresDatabase(parsed, connections_max=connections_max)
    try:
        yield postgres
    finally:
        await postgres.engine.dispose()


def migrate(connection: Connection, revision: str = "head") -> None:
    """Migrate the schema to `revision`, an identifier of Alembic."""
    command.upgrade(migrations(connection), revision)


def migrations(connection: Connection | None) -> Config:
    """Alembic's configuration for the database of `connection`."""
    config = Config()
    config.set_main_option("script_location", "controlplane.store:migrations")
    config.attributes["connection"] = connection
    return config


def first_line(error: Exception) -> str:
    """The first line of an error, for the person who started the process."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(original).partition("\n")[0]
