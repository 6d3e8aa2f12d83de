"""How SQLite is used: durable, with references checked, and by one process only."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, Row, event
from sqlalchemy import create_engine as create_sync_engine
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from controlplane import errors
from controlplane.store.databases.connection import Query, WriteConnection
from controlplane.store.databases.sqlite_connection import fetch, in_thread, transaction

DRIVER = "sqlite+aiosqlite"

CONNECTIONS_MAX = 8
"""One for writes, the others for reads. Each is a thread; a page is read in under 1 ms."""

_BUSY_TIMEOUT_MS = 5000
"""Only this process has the file, so a connection waits only while another one commits."""

_OTHER_FILES = ("-wal", "-shm")
"""Beside the database, while it is in use and after an unclean stop."""

WRITE = "broadsheet_write"
"""Execution option of connections whose transactions write."""


def database_path(url: URL) -> Path:
    """The file in a `sqlite+aiosqlite:///` URL.

    Raises:
        errors.SetupError: It names no file.
    """
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise errors.SetupError("database url: must name a file, as its writes are to survive the process")
    return Path(url.database)


def database_url(path: Path) -> str:
    """The inverse of `database_path`."""
    return URL.create(DRIVER, database=str(path)).render_as_string(hide_password=False)


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold the lock file beside the database, so that no second process writes to it.

    The kernel releases the lock when the process ends, however it ends. The lock file stays.

    Raises:
        errors.SetupError: Another process holds it, or the file cannot be created.
    """
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.SetupError(f"{error.filename or path}: {error.strerror}") from None
    try:
        _lock(descriptor, path)
        _close_to_others(path)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def present(path: Path) -> Iterator[None]:
    """Check that the file exists. It can be read while another process holds it.

    Raises:
        errors.SetupError: There is no such file.
    """
    if not path.is_file():
        raise errors.SetupError(f"{path}: there is no registry")
    yield


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 256).decode("utf-8", "replace").strip() or "another process"
        raise errors.SetupError(f"{path} is in use by {holder}; only one control plane may hold it") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _close_to_others(path: Path) -> None:
    """Create the database file for this user only, or take it from all users but its group.

    It holds hashes of keys, and the contents of cards and labels. SQLite alone would create it for
    everybody to read; its other files get the mode of this one. The group stays as it is: a volume
    may be given to a process by its group.

    Raises:
        errors.SetupError: The file cannot be created.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise errors.SetupError(f"{path}: {error.strerror}") from None
    for file in (path, *(path.with_name(f"{path.name}{suffix}") for suffix in _OTHER_FILES)):
        # A file of another user has the mode that this user wants.
        with suppress(FileNotFoundError, PermissionError):
            mode = file.stat().st_mode
            if mode & stat.S_IRWXO:
                file.chmod(stat.S_IMODE(mode) & ~stat.S_IRWXO)


def create_engine(path: Path) -> AsyncEngine:
    """An engine whose commits are on disk when they return."""
    engine = create_async_engine(database_url(path), pool_size=CONNECTIONS_MAX, max_overflow=0)
    _configure(engine.sync_engine)
    return engine


def create_plain_engine(path: Path) -> Engine:
    """The same without a thread for each connection, and without a pool."""
    url = URL.create("sqlite+pysqlite", database=str(path))
    engine = create_sync_engine(url, poolclass=NullPool, connect_args={"check_same_thread": False})
    _configure(engine)
    return engine


def _configure(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _record: object) -> None:
        # The driver itself begins transactions too late for BEGIN IMMEDIATE, and for reads that
        # see one state.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit waits until the log is on disk. NORMAL, which is usual with WAL, may lose
        # a commit when the power fails.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options: dict[str, Any] = dict(connection.get_execution_options())
        # IMMEDIATE takes the write lock at once. A transaction that reads first and then writes
        # may fail half-way.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITE) else "BEGIN")


class SqliteDatabase:
    """A database file that only this process has open for writing."""

    writers_max = 1
    upkeep_max = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = create_engine(path)
        # SQLite has one writer at a time. This lock hands the turn on in order; SQLite itself
        # would poll, and give up after _BUSY_TIMEOUT_MS.
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._writer: Connection | None = None
        self._reader: Connection | None = None

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    async def fetch(self, query: Query, key: Mapping[str, object]) -> Sequence[Row[Any]]:
        # Here and not in a thread, for the reason that `sqlite_connection.py` gives. A single
        # statement sees one state also without a transaction around it.
        if self._reader is None:
            self._reader = create_plain_engine(self._path).connect()
        return fetch(self._reader, query, key)

    @asynccontextmanager
    async def begin_write(self) -> AsyncIterator[WriteConnection]:
        async with self._writing:
            if self._writer is None or self._writer.closed:
                self._writer = await in_thread(self._thread, self._connect_writer)
            async with transaction(self._writer, self._thread) as connection:
                yield connection

    def _connect_writer(self) -> Connection:
        return create_plain_engine(self._path).connect().execution_options(**{WRITE: True})

    @asynccontextmanager
    async def begin_setup(self) -> AsyncIterator[AsyncConnection]:
        async with self._writing, self._engine.connect() as plain:
            connection = await plain.execution_options(**{WRITE: True})
            async with connection.begin():
                yield connection

    async def close(self) -> None:
        """Close all connections."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                await in_thread(self._thread, connection.close)
        self._thread.shutdown()
        await self._engine.dispose()

    async def finish_schema(self, connection: AsyncConnection) -> None:
        """Nothing to do: SQLite compares text by its bytes by default."""

    def is_retryable(self, error: Exception, *, committing: bool) -> bool:
        # There is no other writer to conflict with.
        return False
