"""The store: everything the control plane keeps, and all SQL behind it.

A change is one transaction: the resource, its history entry, the root digest and the catalog
revision become durable together or not at all.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from alembic.util import CommandError
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from controlplane import errors, principal
from controlplane.catalog import domain
from controlplane.commit_feed import CommitFeed
from controlplane.store import revisions
from controlplane.store.audit import AuditEvents
from controlplane.store.databases import database
from controlplane.store.databases import postgres as store_postgres
from controlplane.store.databases.connection import Query, Statements, WriteConnection
from controlplane.store.databases.failures import database_errors
from controlplane.store.databases.timing import (
    CATALOG_WRITE,
    LOOKUP,
    READ,
    UPKEEP_WRITE,
    MeasureDatabase,
    measure_nothing,
    timed,
)
from controlplane.store.doors import WriteDoor
from controlplane.store.entries import Entries, EntryChange, EntryRef
from controlplane.store.fleet.data_planes import DataPlanes
from controlplane.store.fleet.enrollments import Enrollments
from controlplane.store.fleet.reported_names import ReportedNames
from controlplane.store.fleet.tables import FleetTables
from controlplane.store.fleet.waves import WavesRecords
from controlplane.store.groups import Change, GroupCommit
from controlplane.store.reading import Reading
from controlplane.store.request_ids import AnsweredRequests
from controlplane.store.resources import served_names
from controlplane.store.resources.adapters import Adapters
from controlplane.store.resources.api_keys import ApiKeys
from controlplane.store.resources.models import Models
from controlplane.store.resources.revocations import Revocations
from controlplane.store.resources.routes import Routes
from controlplane.store.retention import Compaction, Retention
from controlplane.store.transactions import WriteTransaction
from controlplane.store.upkeep import UpkeepWrites

T = TypeVar("T")

Work = Callable[[WriteTransaction], Awaitable[T]]


def _now() -> datetime:
    return datetime.now(UTC)


def _new_uid() -> str:
    return uuid.uuid4().hex


MeasureCommit = Callable[[int, float], None]


class Store(UpkeepWrites):
    """The registry's store. Make one with `Store.open`; share it among the tasks of one event loop.

    Each repository method reads in a transaction of its own. Reads never wait for writes.
    """

    def __init__(
        self,
        opened: database.Database,
        clock: Callable[[], datetime],
        new_uid: Callable[[], str],
        deleted_retention: timedelta,
        measure: MeasureCommit,
        measure_database: MeasureDatabase = measure_nothing,
    ) -> None:
        self._timed = functools.partial(timed, measure_database)
        measured = functools.partial(functools.partial, self._timed)
        super().__init__(WriteDoor(opened, opened.upkeep_max, measure=measured(UPKEEP_WRITE)), clock)
        self._database = opened
        self._new_uid = new_uid
        self._deleted_retention = deleted_retention
        self._catalog_door = WriteDoor(opened, opened.writers_max, measure=measured(CATALOG_WRITE))
        self.commits = CommitFeed()
        """Announces each catalog revision that this store commits."""
        reading = Reading(begin=self._begin_read, fetch=self._fetch, now=clock)
        self.waves = WavesRecords(reading)
        self._groups = GroupCommit(
            self._catalog_door, self._new_stamp, self.commits.publish, measure, self.waves.publish
        )
        self.models = Models(reading)
        self.adapters = Adapters(reading)
        self.routes = Routes(reading)
        self.api_keys = ApiKeys(reading)
        self.revocations = Revocations(reading)
        self.revisions = revisions.Revisions(reading)
        self.entries = Entries(reading)
        self.audit = AuditEvents(reading)
        self.request_ids = AnsweredRequests(reading)
        self.data_planes = DataPlanes(reading)
        self.enrollments = Enrollments(reading)
        self.reported_names = ReportedNames(reading)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        connections_max: int = store_postgres.CONNECTIONS_MAX,
        clock: Callable[[], datetime] = _now,
        new_uid: Callable[[], str] = _new_uid,
        deleted_retention: timedelta = domain.DELETED_RETENTION,
        measure: MeasureCommit = lambda revisions, seconds: None,
        measure_database: MeasureDatabase = measure_nothing,
    ) -> AsyncIterator[Store]:
        """Open the store at `url`. Creates it, or migrates it to the newest schema, if need be.

        Args:
            url: `sqlite+aiosqlite:///path/to/file` or `postgresql+asyncpg://user@host/database`.
            connections_max: Connections to PostgreSQL at a time.
            clock: The time in UTC, aware.
            new_uid: Makes an identity that is unique in the world.
            deleted_retention: How long deleted resources can be undeleted.
            measure: Called after each commit of catalog changes, with the number of new revisions
                and its seconds. Must not block or raise. Default: nothing is measured.
            measure_database: Called after each operation of the database. Default: as before.

        Raises:
            errors.SetupError: it cannot be used, or another process uses it.
        """
        async with database.open_database(url, connections_max=connections_max) as opened:
            store = cls(opened, clock, new_uid, deleted_retention, measure, measure_database)
            try:
                await store._prepare()
            except (CommandError, OSError, SQLAlchemyError, TimeoutError) as error:
                raise errors.SetupError(f"{opened.name}: {database.first_line(error)}") from error
            try:
                yield store
            finally:
                # The caller of a write may be gone, but the write may be durable already.
                await store._groups.drain()
                await store._catalog_door.drain()
                await store._upkeep_door.drain()

    async def _prepare(self) -> None:
        async with self._database.begin_setup() as connection:
            await connection.run_sync(database.migrate)
            await self._database.finish_schema(connection)
            await revisions.make_catalog_if_absent(connection, store_uid=self._new_uid(), now=self._clock())

    @asynccontextmanager
    async def _begin_read(self) -> AsyncIterator[Statements]:
        with self._timed(READ), database_errors():
            async with self._database.engine.begin() as connection:
                yield connection

    async def _fetch(self, query: Query, **key: object) -> Sequence[Row[Any]]:
        with self._timed(LOOKUP), database_errors():
            return await self._database.fetch(query, key)

    def fleet_tables(self) -> FleetTables | None:
        """What control planes on one database share. None: an SQLite database has only one."""
        if not isinstance(self._database, store_postgres.PostgresDatabase):
            return None
        return FleetTables(self._database, timed=self._timed)

    def new_uid(self) -> str:
        """An identity that is unique in the world."""
        return self._new_uid()

    async def holder_of(self, served_name: str) -> str | None:
        """Name of the resource that is served under this name. None: there is none."""
        return await served_names.holder_of(self._fetch, served_name)

    # For `fleet` and `push`: what their protocols `RecordStore` and `EntrySource` declare

    async def head(self) -> domain.Head:
        """The newest committed snapshot."""
        return await self.revisions.head()

    async def read_entries(
        self, revision: int, *, after_name: str, limit: int, bytes_max: int | None = None
    ) -> Sequence[domain.Entry]:
        """`Entries.read`."""
        return await self.entries.read(revision, after_name=after_name, limit=limit, bytes_max=bytes_max)

    async def read_changes(
        self, base: domain.Position, to_revision: int, *, after_name: str, limit: int
    ) -> Sequence[EntryChange]:
        """`Entries.changes_between`."""
        return await self.entries.changes_between(base, to_revision, after_name=after_name, limit=limit)

    async def read_refs(self, revision: int, *, after_name: str, limit: int) -> Sequence[EntryRef]:
        """`Entries.refs`."""
        return await self.entries.refs(revision, after_name=after_name, limit=limit)

    async def read_named(self, revision: int, names: Sequence[str]) -> Sequence[domain.Entry]:
        """`Entries.named`."""
        return await self.entries.named(revision, names)

    async def holds(self, position: domain.Position) -> bool:
        """`Revisions.holds`."""
        return await self.revisions.holds(position)

    async def get_data_plane(self, data_plane_id: str) -> domain.DataPlaneRecord | None:
        """`DataPlanes.find`."""
        return await self.data_planes.find(data_plane_id)

    # Changes of the catalog

    async def write(
        self,
        work: Work[T],
        *,
        method: str,
        resource: str,
        dry_run: bool = False,
        is_large: bool = False,
    ) -> T:
        """Run `work`, and commit what it changed as one catalog revision.

        It shares its transaction with other changes that wait (`groups.py`). Once begun, the write
        goes on to its end even when the caller is cancelled: a commit cannot be taken back, and
        must be announced in `commits`.

        Args:
            work: Makes the change. May be run several times. An exception takes all of it back.
            method: The call that makes the change, for the history, such as `RegisterModel`.
            resource: Name of the resource that changes, for the history.
            dry_run: Run every check, then take it back.
            is_large: It may change thousands of resources. Other changes do not wait for it in the
                same transaction.

        Raises:
            errors.Unavailable: the database failed.
        """
        change = Change(
            work=work,
            method=method,
            resource=resource,
            principal=principal.current(),
            origin=principal.origin(),
            dry_run=dry_run,
            is_large=is_large,
        )
        return await self._groups.commit(change)

    def _new_stamp(self, catalog_revision: int) -> domain.Stamp:
        return domain.Stamp(
            uid=self._new_uid(),
            now=self._clock(),
            catalog_revision=catalog_revision,
            deleted_retention=self._deleted_retention,
        )

    async def compact(self, retention: Retention, oldest_in_use: int | None) -> int:
        """Remove some rows that no kept snapshot needs, in a small transaction.

        It is upkeep, but takes the lock on the catalog (`Compaction.run` says why).

        Args:
            retention: Which snapshots are kept.
            oldest_in_use: The oldest catalog revision that this process is sending to a data plane.
            None: it is sending none.

        Returns:
            How many rows were removed. 0: there were none.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def change(connection: WriteConnection) -> int:
            return await Compaction(connection).run(retention, now=self._clock(), oldest_in_use=oldest_in_use)

        return await self._catalog_door.run(change)
