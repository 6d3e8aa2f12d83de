"""The store: everything the control plane keeps, and all SQL behind it.

One transaction per change: the resource, its history entry, the root digest and the revision become
durable together or not at all.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import structlog
from alembic.util import CommandError
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane import errors
from controlplane.catalog import domain
from controlplane.catalog.request_ids import AnsweredRequest
from controlplane.commit_feed import CommitFeed
from controlplane.store import request_ids as store_requests
from controlplane.store import retention as store_retention
from controlplane.store.databases import database
from controlplane.store.databases import postgres as store_postgres
from controlplane.store.fleet.tables import FleetTables
from controlplane.store.resources import rows as store_rows
from controlplane.store.retention import Retention
from controlplane.store.revisions import StoreReads, database_errors
from controlplane.store.schema import catalog, catalog_revisions
from controlplane.store.transactions import WriteTransaction
from protocol.catalog_digest import CatalogDigest

WRITE_ATTEMPTS_MAX = 4
"""A write that the database gave up for another's sake is tried so often in all."""

_RETRY_AFTER_S = 0.02
"""Wait before the second attempt; doubled for each further one. Seconds."""

_log = structlog.get_logger("controlplane.store.store")

T = TypeVar("T")

Work = Callable[[WriteTransaction], Awaitable[T]]


def _now() -> datetime:
    return datetime.now(UTC)


def _new_uid() -> str:
    return uuid.uuid4().hex


class Store(StoreReads):
    """The registry's store. Make one with `Store.open`; share it among all tasks of one event
    loop."""

    def __init__(
        self,
        opened: database.Database,
        clock: Callable[[], datetime],
        new_uid: Callable[[], str],
        deleted_retention: timedelta,
    ) -> None:
        super().__init__(opened.engine, clock)
        self._database = opened
        self._new_uid = new_uid
        self._deleted_retention = deleted_retention
        self._writers = asyncio.Semaphore(opened.writers_max)
        self._writes: set[asyncio.Task[object]] = set()
        self._commits = CommitFeed()

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
    ) -> AsyncIterator[Store]:
        """The store at `url`, made or migrated to the newest schema if need be.

        Args:
            url: `sqlite+aiosqlite:///path/to/file` or `postgresql+asyncpg://user@host/database`.
            connections_max: Connections to PostgreSQL at a time.
            clock: The time in UTC, aware.
            new_uid: Makes an identity that no other has.
            deleted_retention: How long what is deleted can be undeleted.

        Raises:
            errors.SetupError: it cannot be used, or another process uses it.
        """
        async with database.open_database(url, connections_max=connections_max) as opened:
            store = cls(opened, clock, new_uid, deleted_retention)
            try:
                await store._prepare()
            except (CommandError, OSError, SQLAlchemyError, TimeoutError) as error:
                raise errors.SetupError(f"{opened.name}: {database.first_line(error)}") from error
            try:
                yield store
            finally:
                # A write that was begun ends, though its caller may have gone: it may be durable
                # already.
                await asyncio.gather(*store._writes, return_exceptions=True)

    @property
    def commits(self) -> CommitFeed:
        """Where each catalog revision that this store commits is announced."""
        return self._commits

    def fleet_tables(self) -> FleetTables | None:
        """What control planes on the same database tell each other. None: no other can use this
        database."""
        if not isinstance(self._database, store_postgres.PostgresDatabase):
            return None
        return FleetTables(self._database)

    def new_uid(self) -> str:
        """An identity that no other has."""
        return self._new_uid()

    async def _prepare(self) -> None:
        async with self._database.begin_setup() as connection:
            await connection.run_sync(database.migrate)
            await self._database.finish_schema(connection)
            if (await connection.execute(select(catalog.c.id))).one_or_none() is None:
                await self._make_catalog(connection)

    async def _make_catalog(self, connection: AsyncConnection) -> None:
        empty = CatalogDigest()
        await connection.execute(
            insert(catalog).values(
                id=1, store_uid=self._new_uid(), revision=0, digest_state=empty.to_bytes(), entry_count=0
            )
        )
        await connection.execute(
            insert(catalog_revisions).values(
                revision=0,
                root_digest=empty.root(),
                entry_count=0,
                create_time_us=store_rows.to_us(self._clock()),
                method="",
                resource="",
            )
        )

    async def write(
        self,
        work: Work[T],
        *,
        method: str,
        resource: str,
        dry_run: bool = False,
    ) -> T:
        """Run `work` in a transaction of its own, and commit what it changed as one catalog
        revision.

        Once begun, the write goes on to its end even when the caller is cancelled: a commit cannot
        be taken back, and must be announced in `commits`.

        Args:
            work: Makes the change, and may be run several times. What it raises rolls everything
            back.
            method: What to say in the history, such as `RegisterModel`.
            resource: Which resource changed.
            dry_run: Roll back in the end, having run every check.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def change(connection: AsyncConnection) -> tuple[T, domain.Head | None]:
            transaction = await WriteTransaction.begin(
                connection, now=self._clock(), uid=self._new_uid(), deleted_retention=self._deleted_retention
            )
            result = await work(transaction)
            head = await transaction.finish(method=method, resource=resource)
            if dry_run:
                await connection.rollback()
            return result, head

        async def body() -> T:
            with database_errors():
                result, head = await self._committed(change)
            if head is not None and not dry_run:
                self._commits.publish(head)
            return result

        return await self._in_turn(body)

    async def _committed(self, change: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What `change` returned in a transaction that was committed; run again where that is safe
        and of use."""
        for attempt in itertools.count(1):
            committing = False
            try:
                async with self._database.begin_write() as connection:
                    result = await change(connection)
                    committing = True
                return result
            except DBAPIError as error:
                if attempt == WRITE_ATTEMPTS_MAX or not self._database.is_retryable(error, committing=committing):
                    raise
                _log.info("write_tried_again", attempt=attempt, error=type(error.orig).__name__)
                await asyncio.sleep(_RETRY_AFTER_S * 2 ** (attempt - 1))
        raise AssertionError("the loop ends by itself")

    async def answered_request(self, request_id: str, retention: timedelta) -> AnsweredRequest | None:
        """The request that was carried out under this id within the last `retention`, if there was
        one.

        Raises:
            errors.Unavailable: the database failed.
        """
        async with self._begin_read() as connection:
            return await store_requests.find(connection, request_id, since=self._clock() - retention)

    async def purge_expired(self, limit: int = 100) -> int:
        """Delete for good up to `limit` models and adapters whose purge time has come. Returns how
        many those were.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def work(transaction: WriteTransaction) -> int:
            return await transaction.purge_expired(limit)

        return await self.write(work, method="", resource="")

    async def upsert_data_plane(self, record: domain.DataPlaneRecord) -> None:
        """Keep what is known of a data plane. No catalog revision is made for it.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def work(transaction: WriteTransaction) -> None:
            await transaction.put_data_plane(record)

        await self.write(work, method="", resource="")

    async def delete_audit_events(self, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` of the oldest audit events that were made before this time; how many
        those were.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def work(transaction: WriteTransaction) -> int:
            return await transaction.delete_audit_events(before=before, limit=limit)

        return await self.write(work, method="", resource="")

    async def compact(self, retention: Retention, oldest_in_use: int | None) -> int:
        """Remove a few things that no kept snapshot needs, in a small transaction.

        Args:
            retention: Which snapshots are kept.
            oldest_in_use: The oldest catalog revision that a data plane is being sent by this
            process. None: none is.

        Returns:
            How many were removed. 0: there were none.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def change(connection: AsyncConnection) -> int:
            return await store_retention.compact(connection, retention, now=self._clock(), oldest_in_use=oldest_in_use)

        async def body() -> int:
            with database_errors():
                return await self._committed(change)

        return await self._in_turn(body)

    async def _in_turn(self, body: Callable[[], Coroutine[object, object, T]]) -> T:
        await self._writers.acquire()

        async def run() -> T:
            try:
                return await body()
            finally:
                self._writers.release()

        task = asyncio.create_task(run())
        self._writes.add(task)
        task.add_done_callback(self._write_done)
        return await asyncio.shield(task)

    def _write_done(self, task: asyncio.Task[object]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            # Marks the exception as seen: when the caller has gone, there is nobody to tell.
            task.exception()
