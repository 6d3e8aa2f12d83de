"""Faults: control planes that die and databases that fail between two statements."""

from __future__ import annotations

import asyncio
import enum
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from controlplane.catalog import domain
from controlplane.store import revisions
from controlplane.store.databases import database
from controlplane.store.databases import sqlite as store_sqlite
from controlplane.store.schema import metadata
from controlplane.store.store import Store
from tests.registry_world import World
from tests.statements import observed

CONNECTIONS = 4
"""Connections of each control plane to PostgreSQL."""


class Fault(enum.Enum):
    """What fails."""

    DEATH = enum.auto()
    """The process dies, and loses its memory."""
    FAILURE = enum.auto()
    """The database fails: the disk is full, or the connection is lost."""


class Place(enum.Enum):
    """When the fault occurs."""

    BEFORE_COMMIT = enum.auto()
    AFTER_COMMIT = enum.auto()
    """The change is durable, and not announced."""


class Died(BaseException):
    """Ends everything that a process was doing when it died."""


class Faults:
    """Injects a fault into the next change. Only one change may be under way then."""

    def __init__(self) -> None:
        self.struck: Place | None = None
        """Where the fault has occurred."""
        self._fault: Fault | None = None
        self._statements_left = 0
        self._after_commit = False
        self._on_strike: Callable[[Connection], None] = lambda connection: None
        self._turns: random.Random | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Observe all statements of all engines in the block."""
        with observed(self._before_statement):
            event.listen(Engine, "commit", self._before_commit)
            try:
                yield
            finally:
                event.remove(Engine, "commit", self._before_commit)

    @contextmanager
    def armed(
        self, fault: Fault, statement: int, *, after_commit: bool, on_strike: Callable[[Connection], None]
    ) -> Iterator[None]:
        """Inject a fault into the block.

        Args:
            fault: What fails.
            statement: Fail before this statement, counted from 1. A change with fewer statements
            fails at its commit.
            after_commit: Fail right after the commit instead of right before. Only with DEATH.
            on_strike: Called with the connection that fails.
        """
        self.struck, self._fault, self._on_strike = None, fault, on_strike
        self._statements_left, self._after_commit = statement, after_commit and fault is Fault.DEATH
        try:
            yield
        finally:
            self._fault = None

    @contextmanager
    def taking_turns(self, seed: int) -> Iterator[None]:
        """Let tasks take turns between statements in the block, in an order given by `seed`."""
        self._turns = random.Random(seed)
        try:
            yield
        finally:
            self._turns = None

    def committed(self) -> None:
        """To be called when a change is durable, before it is announced.

        Raises:
            Died: The process dies here.
        """
        if self._fault is not None and self._after_commit:
            self.struck = Place.AFTER_COMMIT
            raise Died

    async def _take_turns(self) -> None:
        if self._turns is not None:
            for _ in range(self._turns.randrange(3)):
                await asyncio.sleep(0)

    def _before_statement(self, connection: Connection, statement: str) -> None:
        if in_greenlet():
            await_only(self._take_turns())
        if self._fault is None:
            return
        if self.struck is not None:
            self._end_if_dead()
            return
        self._statements_left -= 1
        if self._statements_left == 0:
            self._strike(connection, statement)

    def _before_commit(self, connection: Connection) -> None:
        if self._fault is not None and self.struck is None and not self._after_commit:
            self._strike(connection, "COMMIT")

    def _strike(self, connection: Connection, statement: str) -> None:
        self.struck = Place.BEFORE_COMMIT
        self._on_strike(connection)
        self._end_if_dead()
        if connection.dialect.name == "sqlite":
            raise OperationalError(statement, {}, Exception("database or disk is full"))

    def _end_if_dead(self) -> None:
        # A dead process runs nothing any more, whatever its code tries.
        if self._fault is Fault.DEATH:
            raise Died


class Plane:
    """A control plane on a migrated database. It can die and be restarted."""

    def __init__(
        self,
        url: str,
        directory: Path,
        *,
        clock: Callable[[], datetime],
        on_commit: Callable[[domain.Head], None],
    ) -> None:
        self._url = url
        self._directory = directory
        self._clock = clock
        self._on_commit = on_commit
        self._uids = 0
        self._stack = AsyncExitStack()
        self._admin: asyncpg.Connection | None = None
        self._left: Path | None = None
        self.world: World

    @property
    def is_sqlite(self) -> bool:
        return make_url(self._url).drivername == store_sqlite.DRIVER

    async def open(self) -> None:
        """Start the control plane."""
        opened = await self._stack.enter_async_context(database.open_database(self._url, connections_max=CONNECTIONS))
        # Not with Store.open, which checks for migrations every time.
        store = Store(opened, self._clock, self._new_uid, domain.DELETED_RETENTION, lambda revisions, seconds: None)
        store.commits.subscribe(self._on_commit)
        self.world = World(store, self._directory)
        self._stack.callback(self.world.verifier.close)

    async def close(self) -> None:
        """Stop the control plane."""
        await self._stack.aclose()
        if self._admin is not None:
            await self._admin.close()
            self._admin = None

    async def empty(self) -> None:
        """Reset the registry to revision 0."""
        async with self.world.store._database.begin_setup() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None, "the connection is open"
            # With the driver alone: SQLAlchemy would take most of the time.
            for table in reversed(metadata.sorted_tables):
                await raw.execute(f"DELETE FROM {table.name}")  # noqa: S608  # our own names
            await revisions.make_catalog_if_absent(connection, store_uid=self._new_uid(), now=self._clock())

    async def prepare_faults(self) -> None:
        """Open the connection that `strike` needs."""
        if not self.is_sqlite and self._admin is None:
            url = make_url(self._url)
            self._admin = await asyncpg.connect(host=str(url.query["host"]), user=url.username, database=url.database)

    def strike(self, fault: Fault, connection: Connection) -> None:
        """Apply the fault to the database, just before a statement is run."""
        driver: Any = connection.connection.driver_connection
        if self.is_sqlite:
            if fault is Fault.DEATH:
                self._left = self._copy_files()
        elif fault is Fault.DEATH:
            # The operating system closes the sockets of a dead process.
            driver.terminate()
        else:
            assert self._admin is not None, "faults were prepared"
            await_only(self._admin.execute(f"SELECT pg_terminate_backend({driver.get_server_pid()})"))

    async def restart(self) -> None:
        """Start a new process on the files that the dead process left."""
        await self._stack.aclose()
        if self._left is not None:
            path = store_sqlite.database_path(make_url(self._url))
            for file in path.parent.glob(f"{path.name}*"):
                file.unlink()
            for file in self._left.iterdir():
                shutil.move(file, path.parent)
            self._left = None
        await self.open()

    def _copy_files(self) -> Path:
        """Copy the database as the process has written it to the operating system."""
        path = store_sqlite.database_path(make_url(self._url))
        left = path.parent / "left-behind"
        left.mkdir(exist_ok=True)
        for name in (path.name, f"{path.name}-wal"):
            if path.with_name(name).exists():
                shutil.copy(path.with_name(name), left)
        return left

    def _new_uid(self) -> str:
        self._uids += 1
        return f"{id(self):x}-{self._uids}"
