"""The store: everything the control plane keeps, and all SQL behind it.

One transaction per change: the resource, its history entry, the root digest and the revision become durable together or
not at all.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controlplane import domain, errors, store_requests, store_rows, store_sqlite
from controlplane.request_ids import AnsweredRequest
from controlplane.store_read import StoreReads, database_errors
from controlplane.store_schema import catalog, catalog_revisions
from controlplane.store_write import WriteTransaction
from modelplane.catalog_digest import CatalogDigest

T = TypeVar("T")

Work = Callable[[WriteTransaction], Awaitable[T]]


def _now() -> datetime:
    return datetime.now(UTC)


def _new_uid() -> str:
    return uuid.uuid4().hex


class Store(StoreReads):
    """The registry's store. Make one with `Store.open`; share it among all tasks of one event loop."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime], new_uid: Callable[[], str]) -> None:
        super().__init__(engine)
        self._clock = clock
        self._new_uid = new_uid
        # SQLite has one writer. Waiting here is fair and can be cancelled; waiting in the database is neither.
        self._write_lock = asyncio.Lock()
        self._writes: set[asyncio.Task[object]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, clock: Callable[[], datetime] = _now, new_uid: Callable[[], str] = _new_uid
    ) -> AsyncIterator[Store]:
        """The store at `url`, made or migrated to the newest schema if need be.

        Args:
            url: `sqlite+aiosqlite:///path/to/file`.
            clock: The time in UTC, aware.
            new_uid: Makes an identity that no other has.

        Raises:
            errors.SetupError: it cannot be used, or another process uses it.
        """
        path = store_sqlite.database_path(url)
        with store_sqlite.exclusively(path):
            engine = store_sqlite.create_engine(path)
            store = cls(engine, clock, new_uid)
            try:
                try:
                    await store._prepare()
                except (CommandError, SQLAlchemyError) as error:
                    raise errors.SetupError(f"{path}: {_first_line(error)}") from error
                yield store
            finally:
                # A write that was begun ends, though its caller may have gone: it may be durable already.
                await asyncio.gather(*store._writes, return_exceptions=True)
                await engine.dispose()

    async def _prepare(self) -> None:
        async with self._begin_write() as connection:
            await connection.run_sync(_migrate)
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
        on_commit: Callable[[domain.Head], None] = lambda head: None,
    ) -> T:
        """Run `work` in a transaction of its own, and commit what it changed as one catalog revision.

        Once begun, the write goes on to its end even when the caller is cancelled: a commit cannot be taken back, and
        `on_commit` must hear of it.

        Args:
            work: Makes the change. What it raises rolls everything back.
            method: What to say in the history, such as `RegisterModel`.
            resource: Which resource changed.
            dry_run: Roll back in the end, having run every check.
            on_commit: Called with the new head when the commit is durable, in commit order. Must not block or raise.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def body() -> T:
            with database_errors():
                async with self._begin_write() as connection:
                    transaction = await WriteTransaction.begin(connection, now=self._clock(), uid=self._new_uid())
                    result = await work(transaction)
                    head = await transaction.finish(method=method, resource=resource)
                    if dry_run:
                        await connection.rollback()
            if head is not None and not dry_run:
                on_commit(head)
            return result

        return await self._exclusively(body)

    async def answered_request(self, request_id: str, retention: timedelta) -> AnsweredRequest | None:
        """The request that was carried out under this id within the last `retention`, if there was one.

        Raises:
            errors.Unavailable: the database failed.
        """
        async with self._begin_read() as connection:
            return await store_requests.find(connection, request_id, since=self._clock() - retention)

    async def upsert_data_plane(self, record: domain.DataPlaneRecord) -> None:
        """Keep what is known of a data plane. No catalog revision is made for it.

        Raises:
            errors.Unavailable: the database failed.
        """

        async def work(transaction: WriteTransaction) -> None:
            await transaction.put_data_plane(record)

        await self.write(work, method="", resource="")

    async def _exclusively(self, body: Callable[[], Coroutine[object, object, T]]) -> T:
        await self._write_lock.acquire()

        async def run() -> T:
            try:
                return await body()
            finally:
                self._write_lock.release()

        task = asyncio.create_task(run())
        self._writes.add(task)
        task.add_done_callback(self._write_done)
        return await asyncio.shield(task)

    def _write_done(self, task: asyncio.Task[object]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            # Marks the exception as seen: when the caller has gone, there is nobody to tell.
            task.exception()

    @asynccontextmanager
    async def _begin_write(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as plain:
            connection = await plain.execution_options(**{store_sqlite.WRITE: True})
            async with connection.begin():
                yield connection


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "controlplane:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _first_line(error: Exception) -> str:
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(original).partition("\n")[0]
