"""Models in the database: how they are read, and what a change of one writes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, select

from controlplane import errors
from controlplane.catalog import domain, snapshot
from controlplane.listing import paging
from controlplane.listing.listing import EVERYTHING, ListQuery
from controlplane.store.databases.connection import Query
from controlplane.store.reading import Reading
from controlplane.store.resources import deletion, lists, model_rows
from controlplane.store.resources.adapters import AdapterChanges
from controlplane.store.resources.change import CatalogChange
from controlplane.store.resources.model_rows import SELECT_MODELS
from controlplane.store.resources.purging import Purge
from controlplane.store.schema import model_revisions, models
from protocol import names

_BY_ID = Query(SELECT_MODELS.where(models.c.id == bindparam("id")), models, model_revisions, key=("id",))


class Models:
    """The models.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, model_id: str) -> domain.Model | None:
        """The model of this id. None: there is none, or it is deleted."""
        found = await self._find(model_id)
        return found if found is not None and found.delete_time is None else None

    async def find_any(self, model_id: str) -> domain.Model | None:
        """The model of this id, deleted or not. None: there is none, or it is purged."""
        found = await self._find(model_id)
        return found if found is not None and not deletion.is_purged(found, self._reading.now()) else None

    async def get(self, model_id: str) -> domain.Model:
        """The model of this id.

        Raises:
            errors.NotFound: there is none, or it is deleted.
        """
        model = await self.find(model_id)
        if model is None:
            raise errors.model_not_found(names.model_name(model_id))
        return model

    async def get_any(self, model_id: str) -> domain.Model:
        """The model of this id, deleted or not.

        Raises:
            errors.NotFound: there is none, or its purge time has come.
        """
        model = await self.find_any(model_id)
        if model is None:
            raise errors.model_not_found(names.model_name(model_id))
        return model

    async def list(
        self, asked: ListQuery = EVERYTHING, *, after: paging.Cursor | None = None, limit: int
    ) -> Sequence[domain.Model]:
        """Up to `limit` models that match, and perhaps others: `lists.py` says which.

        Args:
            asked: Filter and order.
            after: The cursor to begin after. None: at the beginning.
            limit: Models at most.
        """
        visible = deletion.visible(models, self._reading.now(), show_deleted=asked.show_deleted)
        query = lists.listed(SELECT_MODELS.where(visible), models, asked, after, limit)
        async with self._reading.begin() as connection:
            return [model_rows.model(row) for row in await connection.execute(query)]

    async def list_rollouts(self) -> Sequence[domain.Model]:
        """The models whose newest revision is being rolled out, by id."""
        query = SELECT_MODELS.where(models.c.stable_revision.is_not(None), models.c.delete_time_us.is_(None)).order_by(
            models.c.id
        )
        async with self._reading.begin() as connection:
            return [model_rows.model(row) for row in await connection.execute(query)]

    async def find_revision(self, model_id: str, number: int) -> domain.ModelRevision | None:
        """A revision of a model. None: there is no such revision."""
        query = select(model_revisions).where(
            model_revisions.c.model_id == model_id, model_revisions.c.number == number
        )
        async with self._reading.begin() as connection:
            row = (await connection.execute(query)).one_or_none()
        return model_rows.model_revision(row) if row is not None else None

    async def list_revisions(
        self, model_id: str, *, before_number: int | None, limit: int
    ) -> Sequence[domain.ModelRevision]:
        """Revisions of a model, deleted or not, newest first.

        Args:
            model_id: The model.
            before_number: Only revisions before this one. None: from the newest on.
            limit: Revisions at most.

        Raises:
            errors.NotFound: there is no such model, or its purge time has come.
        """
        query = (
            select(model_revisions)
            .where(model_revisions.c.model_id == model_id)
            .order_by(model_revisions.c.number.desc())
            .limit(limit)
        )
        if before_number is not None:
            query = query.where(model_revisions.c.number < before_number)
        async with self._reading.begin() as connection:
            await Models(self._reading.on(connection)).get_any(model_id)
            return [model_rows.model_revision(row) for row in await connection.execute(query)]

    async def _find(self, model_id: str) -> domain.Model | None:
        rows = await self._reading.fetch(_BY_ID, id=model_id)
        return model_rows.model(rows[0]) if rows else None


class ModelChanges(Models):
    """The models in a write transaction."""

    def __init__(self, change: CatalogChange, adapters: AdapterChanges) -> None:
        super().__init__(change.reading)
        self._change = change
        self._connection = change.connection
        self._adapters = adapters
        self._purgeable: set[str] = set()

    async def find_any(self, model_id: str) -> domain.Model | None:
        """The model of this id, deleted or not. None: there is none, or it is purged.

        A deleted model is locked until the transaction ends, so that no purge removes it.
        """
        found = await self._find(model_id)
        if found is None or found.delete_time is None:
            return found
        if deletion.is_purged(found, self._change.stamp.now):
            self._purgeable.add(model_id)
            return None
        lock = select(models.c.id).where(models.c.id == model_id).with_for_update()
        is_locked = (await self._connection.execute(lock)).one_or_none() is not None
        return found if is_locked else None

    async def put(self, model: domain.Model, previous: domain.Model | None) -> None:
        """Write a model in place of `previous`, as `find_any` returned it.

        Raises:
            errors.InvalidArgument: its entry is too large.
        """
        entry = snapshot.model_entry(model)
        if model.id in self._purgeable:
            await Purge(self._connection, self._change.stamp.now).model(model.id)
        key = {"id": model.id} if previous is not None else None
        await self._change.put_row(models, model_rows.model_values(model), key)
        if previous is None or previous.revision.number != model.revision.number:
            await self._connection.insert(model_revisions, model_rows.model_revision_values(model))
        await self._change.served_names.take(model.name, model.served_name, deletion.held_name(previous))
        await self._change.entries.set(model.name, entry, is_new=previous is None)

    async def delete(self, model_id: str) -> None:
        """Delete a model and its adapters. They can be undeleted until the stamp's purge time."""
        await self._adapters.delete_all_of(model_id)
        await deletion.mark_deleted(self._change, models, names.model_name(model_id), models.c.id == model_id)
