"""Adapters in the database: how they are read, and what a change of one writes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, func, select

from broadsheet.v1 import adapter_pb2
from controlplane import errors
from controlplane.catalog import domain, snapshot
from controlplane.listing import paging
from controlplane.listing.listing import EVERYTHING, ListQuery
from controlplane.store.databases.connection import Query
from controlplane.store.reading import Reading
from controlplane.store.resources import adapter_rows, deletion, lists
from controlplane.store.resources.adapter_rows import SELECT_ADAPTERS
from controlplane.store.resources.change import CatalogChange
from controlplane.store.resources.purging import Purge
from controlplane.store.schema import adapter_revisions, adapters, models, route_references
from protocol import names

NAMED_MAX = 5
"""Adapters that a list for an error message names. The message gives the number of the others."""


_BY_ID = Query(
    SELECT_ADAPTERS.where(adapters.c.model_id == bindparam("model_id"), adapters.c.id == bindparam("id")),
    adapters,
    adapter_revisions,
    key=("model_id", "id"),
)


class Adapters:
    """The adapters of all models.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, model_id: str, adapter_id: str) -> domain.Adapter | None:
        """The adapter of this model and id. None: there is none, or it is deleted."""
        found = await self._find(model_id, adapter_id)
        return found if found is not None and found.delete_time is None else None

    async def find_any(self, model_id: str, adapter_id: str) -> domain.Adapter | None:
        """The adapter of this id, deleted or not. None: there is none, or it is purged."""
        found = await self._find(model_id, adapter_id)
        return found if found is not None and not deletion.is_purged(found, self._reading.now()) else None

    async def get(self, model_id: str, adapter_id: str) -> domain.Adapter:
        """The adapter of this model and id.

        Raises:
            errors.NotFound: there is none, or it is deleted.
        """
        adapter = await self.find(model_id, adapter_id)
        if adapter is None:
            raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
        return adapter

    async def get_any(self, model_id: str, adapter_id: str) -> domain.Adapter:
        """The adapter of this model and id, deleted or not.

        Raises:
            errors.NotFound: there is none, or its purge time has come.
        """
        adapter = await self.find_any(model_id, adapter_id)
        if adapter is None:
            raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
        return adapter

    async def list(
        self,
        model_id: str | None,
        asked: ListQuery = EVERYTHING,
        *,
        after: paging.Cursor | None = None,
        limit: int,
    ) -> Sequence[domain.Adapter]:
        """Adapters that match, and perhaps others: `lists.py` says which.

        Args:
            model_id: The base model. None: all.
            asked: Filter and order. With `show_deleted`, a deleted model has adapters too.
            after: The cursor to begin after. None: at the beginning.
            limit: Adapters at most.

        Raises:
            errors.NotFound: there is no such model.
        """
        now = self._reading.now()
        visible = deletion.visible(adapters, now, show_deleted=asked.show_deleted)
        query = lists.listed(SELECT_ADAPTERS.where(visible), adapters, asked, after, limit)
        async with self._reading.begin() as connection:
            if model_id is not None:
                query = query.where(adapters.c.model_id == model_id)
                base = select(models.c.id).where(
                    models.c.id == model_id, deletion.visible(models, now, show_deleted=asked.show_deleted)
                )
                if (await connection.execute(base)).one_or_none() is None:
                    raise errors.model_not_found(names.model_name(model_id))
            return [adapter_rows.adapter(row) for row in await connection.execute(query)]

    async def with_rank_above(self, model_id: str, rank: int = 0) -> tuple[Sequence[tuple[str, int]], int]:
        """The adapters of a model with a rank above `rank`.

        Returns:
            Name and rank of up to NAMED_MAX of them, by id, and their count.
        """
        live = adapters.c.delete_time_us.is_(None)
        matching = live & (adapters.c.model_id == model_id) & (adapters.c.rank > rank)
        counting = select(func.count()).select_from(adapters).where(matching)
        query = select(adapters.c.id, adapters.c.rank).where(matching).order_by(adapters.c.id).limit(NAMED_MAX)
        async with self._reading.begin() as connection:
            count = (await connection.execute(counting)).scalar_one()
            rows = await connection.execute(query) if count else ()
            return tuple((names.adapter_name(model_id, row.id), row.rank) for row in rows), count

    async def served_with_rank_above(self, model_id: str, rank: int) -> tuple[Sequence[tuple[str, int]], int]:
        """The adapters of a model, and the revisions of them that routes pin, with a higher rank.

        Returns:
            Name and rank of some of them, and their count.
        """
        pins = (
            select(adapter_revisions.c.adapter_id, adapter_revisions.c.number, adapter_revisions.c.weights)
            .join(
                route_references,
                (route_references.c.model_id == adapter_revisions.c.model_id)
                & (route_references.c.adapter_id == adapter_revisions.c.adapter_id)
                & (route_references.c.number == adapter_revisions.c.number),
            )
            .where(route_references.c.model_id == model_id, route_references.c.adapter_id != "")
            .distinct()
            .order_by(adapter_revisions.c.adapter_id, adapter_revisions.c.number)
        )
        async with self._reading.begin() as connection:
            named, count = await Adapters(self._reading.on(connection)).with_rank_above(model_id, rank)
            pinned = [
                (names.adapter_revision_name(model_id, row.adapter_id, row.number), found)
                for row in await connection.execute(pins)
                if (found := adapter_pb2.AdapterWeights.FromString(row.weights).rank) > rank
            ]
        return (*named, *pinned)[:NAMED_MAX], count + len(pinned)

    async def rank_of(self, target: names.Target) -> int | None:
        """The rank of an adapter, or of its revision `target.number`. None: it does not exist."""
        live = select(adapters.c.rank).where(
            adapters.c.model_id == target.model_id,
            adapters.c.id == target.adapter_id,
            adapters.c.delete_time_us.is_(None),
        )
        query = select(adapter_revisions.c.weights).where(
            adapter_revisions.c.model_id == target.model_id,
            adapter_revisions.c.adapter_id == target.adapter_id,
            adapter_revisions.c.number == target.number,
        )
        async with self._reading.begin() as connection:
            current_rank: int | None = (await connection.execute(live)).scalar_one_or_none()
            if current_rank is None or target.number is None:
                return current_rank
            weights = (await connection.execute(query)).scalar_one_or_none()
        return adapter_pb2.AdapterWeights.FromString(weights).rank if weights is not None else None

    async def get_revision(self, model_id: str, adapter_id: str, number: int) -> domain.AdapterRevision:
        """The revision of this number.

        Raises:
            errors.NotFound: there is no such adapter, or it has no such revision.
        """
        query = select(adapter_revisions).where(
            adapter_revisions.c.model_id == model_id,
            adapter_revisions.c.adapter_id == adapter_id,
            adapter_revisions.c.number == number,
        )
        async with self._reading.begin() as connection:
            adapter = await Adapters(self._reading.on(connection)).get(model_id, adapter_id)
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise errors.revision_of_resource_not_found(adapter.name, number, adapter.revision.number)
        return adapter_rows.adapter_revision(row)

    async def list_revisions(
        self, model_id: str, adapter_id: str, *, before_number: int | None, limit: int
    ) -> Sequence[domain.AdapterRevision]:
        """Revisions of an adapter, deleted or not, newest first.

        Args:
            model_id: The base model.
            adapter_id: The adapter.
            before_number: Only revisions before this one. None: from the newest on.
            limit: Revisions at most.

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
        async with self._reading.begin() as connection:
            await Adapters(self._reading.on(connection)).get_any(model_id, adapter_id)
            return [adapter_rows.adapter_revision(row) for row in await connection.execute(query)]

    async def _find(self, model_id: str, adapter_id: str) -> domain.Adapter | None:
        rows = await self._reading.fetch(_BY_ID, model_id=model_id, id=adapter_id)
        return adapter_rows.adapter(rows[0]) if rows else None


class AdapterChanges(Adapters):
    """The adapters in a write transaction."""

    def __init__(self, change: CatalogChange) -> None:
        super().__init__(change.reading)
        self._change = change
        self._connection = change.connection
        self._purgeable: set[tuple[str, str]] = set()

    async def find_any(self, model_id: str, adapter_id: str) -> domain.Adapter | None:
        """The adapter of this model and id, deleted or not. None: there is none, or it is purged.

        A deleted adapter is locked until the transaction ends, so that no purge removes it.
        """
        found = await self._find(model_id, adapter_id)
        if found is None or found.delete_time is None:
            return found
        if deletion.is_purged(found, self._change.stamp.now):
            self._purgeable.add((model_id, adapter_id))
            return None
        lock = select(adapters.c.id).where(adapters.c.model_id == model_id, adapters.c.id == adapter_id)
        is_locked = (await self._connection.execute(lock.with_for_update())).one_or_none() is not None
        return found if is_locked else None

    async def deleted_with(self, model: domain.Model) -> Sequence[domain.Adapter]:
        """The adapters that the deletion of `model` deleted, by id, locked against a purge."""
        query = SELECT_ADAPTERS.where(
            adapters.c.model_id == model.id,
            adapters.c.delete_time_us.is_not(None),
            # A deletion is the last change of what it deletes, so both were deleted in the same
            # catalog revision.
            adapters.c.catalog_revision == model.catalog_revision,
        ).order_by(adapters.c.id)
        rows = await self._connection.execute(query.with_for_update(of=adapters))
        return [adapter_rows.adapter(row) for row in rows]

    async def put(self, adapter: domain.Adapter, previous: domain.Adapter | None) -> None:
        """Write an adapter in place of `previous`, as `find_any` returned it.

        Raises:
            errors.InvalidArgument: its entry is too large.
        """
        entry = snapshot.adapter_entry(adapter)
        if (adapter.model_id, adapter.id) in self._purgeable:
            await Purge(self._connection, self._change.stamp.now).adapter(adapter.model_id, adapter.id)
        key = {"model_id": adapter.model_id, "id": adapter.id} if previous is not None else None
        await self._change.put_row(adapters, adapter_rows.adapter_values(adapter), key)
        if previous is None or previous.revision.number != adapter.revision.number:
            await self._connection.insert(adapter_revisions, adapter_rows.adapter_revision_values(adapter))
        await self._change.served_names.take(adapter.name, adapter.served_name, deletion.held_name(previous))
        await self._change.entries.set(adapter.name, entry, is_new=previous is None)

    async def delete(self, model_id: str, adapter_id: str) -> None:
        """Delete an adapter. It can be undeleted until the stamp's purge time."""
        condition = (adapters.c.model_id == model_id) & (adapters.c.id == adapter_id)
        await deletion.mark_deleted(self._change, adapters, names.adapter_name(model_id, adapter_id), condition)

    async def delete_all_of(self, model_id: str) -> None:
        """Delete the adapters of a model that is deleted."""
        live = select(adapters.c.id).where(adapters.c.model_id == model_id, adapters.c.delete_time_us.is_(None))
        for adapter_id in (await self._connection.execute(live)).scalars().all():
            await self.delete(model_id, adapter_id)
