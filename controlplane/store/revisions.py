"""Everything that is read from the store. Reading never waits for writing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controlplane import errors
from controlplane.catalog import audit, domain
from controlplane.listing import paging
from controlplane.listing.listing import EVERYTHING, ListQuery
from controlplane.store import audit as store_audit
from controlplane.store import entries as store_history
from controlplane.store.resources import lists as store_lists
from controlplane.store.resources import rows as store_rows
from controlplane.store.resources.api_keys import ApiKeyReads
from controlplane.store.resources.routes import RouteReads
from controlplane.store.schema import (
    adapter_revisions,
    adapters,
    blobs,
    catalog,
    catalog_revisions,
    data_planes,
    entries,
    model_revisions,
    models,
)
from protocol import names


class StoreReads(RouteReads, ApiKeyReads):
    """The reading half of the store.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    @asynccontextmanager
    async def _begin_read(self) -> AsyncIterator[AsyncConnection]:
        # One transaction, so that several statements see one state.
        with database_errors():
            async with self._engine.begin() as connection:
                yield connection

    async def head(self) -> domain.Head:
        """The newest committed snapshot."""
        async with self._begin_read() as connection:
            return await self._head(connection)

    async def _head(self, connection: AsyncConnection) -> domain.Head:
        query = select(catalog.c.store_uid, catalog_revisions).join(
            catalog_revisions, catalog_revisions.c.revision == catalog.c.revision
        )
        row = (await connection.execute(query)).one()
        return domain.Head(
            position=domain.Position(store_uid=row.store_uid, revision=row.revision, digest=row.root_digest),
            entry_count=row.entry_count,
        )

    async def commit_at(self, revision: int) -> domain.Commit:
        """How the snapshot at `revision` came about.

        Raises:
            errors.NotFound: there is none.
        """
        async with self._begin_read() as connection:
            return await self._commit_at(connection, revision)

    async def _commit_at(self, connection: AsyncConnection, revision: int) -> domain.Commit:
        head = await self._head(connection)
        query = select(catalog_revisions).where(catalog_revisions.c.revision == revision)
        # A number beyond 64 bits fits no column, and is no revision.
        row = (await connection.execute(query)).one_or_none() if revision <= head.position.revision else None
        if row is None:
            oldest = (await connection.execute(select(func.min(catalog_revisions.c.revision)))).scalar_one()
            raise errors.revision_not_found(revision, oldest, head.position.revision)
        return _commit(row, head.position.store_uid)

    async def position_at(self, revision: int) -> domain.Position:
        """The position of the snapshot at `revision`.

        Raises:
            errors.NotFound: there is none.
        """
        return (await self.commit_at(revision)).head.position

    async def list_commits(self, *, before_revision: int | None, limit: int) -> Sequence[domain.Commit]:
        """Snapshots, newest first; those before `before_revision` if it is given."""
        query = select(catalog_revisions).order_by(catalog_revisions.c.revision.desc()).limit(limit)
        if before_revision is not None:
            query = query.where(catalog_revisions.c.revision < before_revision)
        async with self._begin_read() as connection:
            store_uid = (await self._head(connection)).position.store_uid
            return [_commit(row, store_uid) for row in await connection.execute(query)]

    async def read_entries(
        self, revision: int, *, after_name: str, limit: int, bytes_max: int | None = None
    ) -> Sequence[domain.Entry]:
        """Entries of the snapshot at `revision`, ordered by name.

        Args:
            revision: Any retained catalog revision.
            after_name: Leave out entries up to and including this name. Empty: from the first.
            limit: Entries at most.
            bytes_max: Stop before the blobs together pass this size; one entry there is always.

        Raises:
            errors.NotFound: there is no such revision.
        """
        async with self._begin_read() as connection:
            await self._commit_at(connection, revision)
            held = (
                (entries.c.name > after_name)
                & (entries.c.from_revision <= revision)
                & (entries.c.to_revision.is_(None) | (entries.c.to_revision > revision))
            )
            if bytes_max is not None:
                limit = await self._fitting(connection, held, limit, bytes_max)
            query = (
                select(entries.c.name, entries.c.type, entries.c.digest, blobs.c.blob)
                .join(blobs, blobs.c.digest == entries.c.digest)
                .where(held)
                .order_by(entries.c.name)
                .limit(limit)
            )
            rows = await connection.execute(query)
            return [domain.Entry(name=row.name, type=row.type, digest=row.digest, blob=row.blob) for row in rows]

    async def differences(
        self, from_revision: int, to_revision: int, *, after_name: str, limit: int
    ) -> Sequence[store_history.Difference]:
        """What differs between two snapshots, ordered by name; what comes after `after_name`.

        Raises:
            errors.NotFound: there is no such revision.
        """
        async with self._begin_read() as connection:
            # Both in one transaction: what is kept at its beginning stays readable until its end.
            await self._commit_at(connection, from_revision)
            await self._commit_at(connection, to_revision)
            return await store_history.differences(
                connection, from_revision, to_revision, after_name=after_name, limit=limit
            )

    async def _fitting(self, connection: AsyncConnection, held: ColumnElement[bool], limit: int, bytes_max: int) -> int:
        """How many of the first `limit` entries have blobs of `bytes_max` together; at least 1."""
        query = (
            select(blobs.c.size_bytes)
            .join(entries, blobs.c.digest == entries.c.digest)
            .where(held)
            .order_by(entries.c.name)
            .limit(limit)
        )
        total = 0
        for count, size_bytes in enumerate((await connection.execute(query)).scalars()):
            total += size_bytes
            if total > bytes_max:
                return max(1, count)
        return limit

    async def get_model(self, model_id: str) -> domain.Model:
        """The model of this id.

        Raises:
            errors.NotFound: there is none.
        """
        async with self._begin_read() as connection:
            model = await store_rows.find_model(connection, model_id)
        if model is None:
            raise errors.model_not_found(names.model_name(model_id))
        return model

    async def get_any_model(self, model_id: str) -> domain.Model:
        """The model of this id, deleted or not.

        Raises:
            errors.NotFound: there is none, or its purge time has come.
        """
        async with self._begin_read() as connection:
            model = await store_rows.find_any_model(connection, model_id)
        if model is None or self._is_purged(model):
            raise errors.model_not_found(names.model_name(model_id))
        return model

    def _is_purged(self, resource: domain.Model | domain.Adapter) -> bool:
        return resource.purge_time is not None and resource.purge_time <= self._clock()

    async def list_models(
        self, asked: ListQuery = EVERYTHING, *, after: paging.Cursor | None = None, limit: int
    ) -> Sequence[domain.Model]:
        """Models that may be asked for; those after the cursor `after`. `store_lists.py` says which
        others come too."""
        visible = store_rows.visible(models, self._clock(), show_deleted=asked.show_deleted)
        query = store_lists.listed(store_rows.SELECT_MODELS.where(visible), models, asked, after, limit)
        async with self._begin_read() as connection:
            return [store_rows.model(row) for row in await connection.execute(query)]

    async def list_rollouts(self) -> Sequence[domain.Model]:
        """The models whose newest revision is being rolled out, by id."""
        query = store_rows.SELECT_MODELS.where(
            models.c.stable_revision.is_not(None), models.c.delete_time_us.is_(None)
        ).order_by(models.c.id)
        async with self._begin_read() as connection:
            return [store_rows.model(row) for row in await connection.execute(query)]

    async def list_model_revisions(
        self, model_id: str, *, before_number: int | None, limit: int
    ) -> Sequence[domain.ModelRevision]:
        """Revisions of a model, newest first; those before `before_number` if it is given.

        Raises:
            errors.NotFound: there is no such model.
        """
        query = (
            select(model_revisions)
            .where(model_revisions.c.model_id == model_id)
            .order_by(model_revisions.c.number.desc())
            .limit(limit)
        )
        if before_number is not None:
            query = query.where(model_revisions.c.number < before_number)
        async with self._begin_read() as connection:
            model = await store_rows.find_any_model(connection, model_id)
            if model is None or self._is_purged(model):
                raise errors.model_not_found(names.model_name(model_id))
            return [store_rows.model_revision(row) for row in await connection.execute(query)]

    async def get_adapter(self, model_id: str, adapter_id: str) -> domain.Adapter:
        """The adapter of this model and id.

        Raises:
            errors.NotFound: there is none.
        """
        async with self._begin_read() as connection:
            adapter = await store_rows.find_adapter(connection, model_id, adapter_id)
        if adapter is None:
            raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
        return adapter

    async def get_any_adapter(self, model_id: str, adapter_id: str) -> domain.Adapter:
        """The adapter of this model and id, deleted or not.

        Raises:
            errors.NotFound: there is none, or its purge time has come.
        """
        async with self._begin_read() as connection:
            adapter = await store_rows.find_any_adapter(connection, model_id, adapter_id)
        if adapter is None or self._is_purged(adapter):
            raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
        return adapter

    async def get_adapter_revision(self, model_id: str, adapter_id: str, number: int) -> domain.AdapterRevision:
        """The revision of this number.

        Raises:
            errors.NotFound: there is no such adapter, or it has none.
        """
        query = select(adapter_revisions).where(
            adapter_revisions.c.model_id == model_id,
            adapter_revisions.c.adapter_id == adapter_id,
            adapter_revisions.c.number == number,
        )
        async with self._begin_read() as connection:
            adapter = await store_rows.find_adapter(connection, model_id, adapter_id)
            if adapter is None:
                raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise errors.revision_of_resource_not_found(adapter.name, number, adapter.revision.number)
        return store_rows.adapter_revision(row)

    async def list_adapter_revisions(
        self, model_id: str, adapter_id: str, *, before_number: int | None, limit: int
    ) -> Sequence[domain.AdapterRevision]:
        """Revisions of an adapter, deleted or not, newest first; those before `before_number` if it
        is given.

        Raises:
            errors.NotFound: there is no such adapter, or its purge time has come.
        """
        query = (
            select(adapter_revisions)
            .where(adapter_revisions.c.model_id == model_id, adapter_revisions.c.adapter_id == adapter_id)
            .order_by(adapter_revisions.c.number.desc())
            .limit(limit)
        )
        if before_number is not None:
            query = query.where(adapter_revisions.c.number < before_number)
        async with self._begin_read() as connection:
            adapter = await store_rows.find_any_adapter(connection, model_id, adapter_id)
            if adapter is None or self._is_purged(adapter):
                raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
            return [store_rows.adapter_revision(row) for row in await connection.execute(query)]

    async def list_adapters(
        self,
        model_id: str | None,
        asked: ListQuery = EVERYTHING,
        *,
        after: paging.Cursor | None = None,
        limit: int,
    ) -> Sequence[domain.Adapter]:
        """Adapters that may be asked for; those after the cursor `after`. `store_lists.py` says
        which others come too.

        Args:
            model_id: The base model. None: all.
            asked: With `show_deleted`, also those of a deleted model.
            after: The cursor to begin after. None: at the beginning.
            limit: Adapters at most.

        Raises:
            errors.NotFound: there is no such model.
        """
        visible = store_rows.visible(adapters, self._clock(), show_deleted=asked.show_deleted)
        query = store_lists.listed(store_rows.SELECT_ADAPTERS.where(visible), adapters, asked, after, limit)
        async with self._begin_read() as connection:
            if model_id is not None:
                query = query.where(adapters.c.model_id == model_id)
                model = await store_rows.find_any_model(connection, model_id)
                if model is None or self._is_purged(model) or not (asked.show_deleted or model.delete_time is None):
                    raise errors.model_not_found(names.model_name(model_id))
            return [store_rows.adapter(row) for row in await connection.execute(query)]

    async def list_audit_events(
        self, matching: audit.EventFilter, *, before_revision: int | None, limit: int
    ) -> Sequence[audit.AuditEvent]:
        """Audit events, newest first; those before `before_revision` if it is given."""
        async with self._begin_read() as connection:
            return await store_audit.list_events(connection, matching, before_revision=before_revision, limit=limit)

    async def get_data_plane(self, data_plane_id: str) -> domain.DataPlaneRecord | None:
        """What is known of a data plane. None: it has never connected."""
        query = select(data_planes).where(data_planes.c.id == data_plane_id)
        async with self._begin_read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return store_rows.data_plane(row) if row is not None else None

    async def list_data_planes(self, *, after_id: str = "", limit: int = 1000) -> Sequence[domain.DataPlaneRecord]:
        """What is known of data planes, by id; of those after `after_id`."""
        query = select(data_planes).where(data_planes.c.id > after_id).order_by(data_planes.c.id).limit(limit)
        async with self._begin_read() as connection:
            return [store_rows.data_plane(row) for row in await connection.execute(query)]


def _commit(row: Row[Any], store_uid: str) -> domain.Commit:
    position = domain.Position(store_uid=store_uid, revision=row.revision, digest=row.root_digest)
    return domain.Commit(
        head=domain.Head(position=position, entry_count=row.entry_count),
        create_time=store_rows.from_us(row.create_time_us),
        method=row.method,
        resource=row.resource,
    )


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn a failure of the database into one that callers are told of. Broken rules of our own
    stay what they are."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, OSError, PoolTimeoutError, TimeoutError) as error:
        # A server that can't be reached is an OSError of the driver's, and one that does not answer
        # a TimeoutError.
        raise errors.Unavailable(
            errors.Reason.STORE_UNAVAILABLE, "the registry's database does not answer as it should; try again"
        ) from error
