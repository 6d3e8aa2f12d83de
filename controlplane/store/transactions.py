"""What happens inside a write transaction: statements, the entry history, and the root digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Table, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane import errors, principal
from controlplane.catalog import audit, domain, snapshot
from controlplane.catalog.domain import Stamp
from controlplane.catalog.request_ids import AnsweredRequest
from controlplane.store import audit as store_audit
from controlplane.store import entries as store_history
from controlplane.store import request_ids as store_requests
from controlplane.store.databases.postgres import CATALOG_CHANNEL
from controlplane.store.resources import purging as store_deleted
from controlplane.store.resources import rows as store_rows
from controlplane.store.resources.api_keys import ApiKeyWrites
from controlplane.store.resources.routes import RouteWrites
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
    served_names,
)
from protocol import names
from protocol.catalog_digest import CatalogDigest

NAMED_MAX = 5
"""So many resources an error names; the others it counts."""


class WriteTransaction(RouteWrites, ApiKeyWrites):
    """One change of the catalog in the making. It holds the lock on the catalog's row until it
    ends.

    Invariant: `_digest` is that of the entries as they are after the statements so far.
    """

    def __init__(self, connection: AsyncConnection, head: domain.Head, digest: CatalogDigest, stamp: Stamp) -> None:
        self._connection = connection
        self._digest = digest
        self._changed = False
        self._changes: dict[str, audit.EntryChange] = {}
        self._change_count = 0
        self.head = head
        """The newest committed snapshot."""
        self.stamp = stamp
        """What the change is marked with."""

    @classmethod
    async def begin(
        cls,
        connection: AsyncConnection,
        *,
        now: datetime,
        uid: str,
        deleted_retention: timedelta = domain.DELETED_RETENTION,
    ) -> WriteTransaction:
        """Lock the catalog's row, and read where the catalog is."""
        row = (await connection.execute(select(catalog).with_for_update())).one()
        digest = CatalogDigest.from_bytes(row.digest_state, row.entry_count)
        head = domain.Head(
            position=domain.Position(store_uid=row.store_uid, revision=row.revision, digest=digest.root()),
            entry_count=row.entry_count,
        )
        stamp = Stamp(uid=uid, now=now, catalog_revision=row.revision + 1, deleted_retention=deleted_retention)
        return cls(connection, head, digest, stamp)

    async def finish(self, *, method: str, resource: str) -> domain.Head | None:
        """Allocate the revision of what was changed. None: nothing was.

        Raises:
            errors.ResourceExhausted: the catalog would have too many entries.
        """
        if not self._changed:
            return None
        if self._digest.entry_count > self.head.entry_count:
            snapshot.check_entry_count(self._digest.entry_count)
        revision = self.stamp.catalog_revision
        root = self._digest.root()
        advance = update(catalog).values(
            revision=revision, digest_state=self._digest.to_bytes(), entry_count=self._digest.entry_count
        )
        if self._connection.dialect.name == "postgresql":
            # Sent by the commit, to the other control planes. In this statement it costs no round
            # trip of its own.
            advance = advance.returning(func.pg_notify(CATALOG_CHANNEL, str(revision)))
        await self._connection.execute(advance)
        await self._connection.execute(
            insert(catalog_revisions).values(
                revision=revision,
                root_digest=root,
                entry_count=self._digest.entry_count,
                create_time_us=store_rows.to_us(self.stamp.now),
                method=method,
                resource=resource,
            )
        )
        await store_audit.insert_event(
            self._connection,
            audit.AuditEvent(
                catalog_revision=revision,
                create_time=self.stamp.now,
                principal=principal.current(),
                origin=principal.origin(),
                method=method,
                resource=resource,
                changes=await store_audit.read_changes(self._connection, self._changes.values()),
                change_count=self._change_count,
            ),
        )
        position = dataclasses.replace(self.head.position, revision=revision, digest=root)
        return domain.Head(position=position, entry_count=self._digest.entry_count)

    async def model(self, model_id: str) -> domain.Model | None:
        """The model of this id, if there is one. A deleted one is none."""
        return await store_rows.find_model(self._connection, model_id)

    async def any_model(self, model_id: str) -> domain.Model | None:
        """The model of this id, deleted or not, if there is one. One whose purge time has come is
        purged."""
        found = await store_rows.find_any_model(self._connection, model_id)
        if found is not None and found.purge_time is not None and found.purge_time <= self.stamp.now:
            await store_deleted.purge_model(self._connection, model_id)
            return None
        return found

    async def adapter(self, model_id: str, adapter_id: str) -> domain.Adapter | None:
        """The adapter of this model and id, if there is one. A deleted one is none."""
        return await store_rows.find_adapter(self._connection, model_id, adapter_id)

    async def any_adapter(self, model_id: str, adapter_id: str) -> domain.Adapter | None:
        """The adapter of this model and id, deleted or not, if there is one. One whose purge time
        came is purged."""
        found = await store_rows.find_any_adapter(self._connection, model_id, adapter_id)
        if found is not None and found.purge_time is not None and found.purge_time <= self.stamp.now:
            await store_deleted.purge_adapter(self._connection, model_id, adapter_id)
            return None
        return found

    async def adapters_deleted_with(self, model: domain.Model) -> Sequence[domain.Adapter]:
        """The adapters that the deletion of `model` deleted."""
        return await store_deleted.adapters_deleted_with(self._connection, model)

    async def purge_expired(self, limit: int) -> int:
        """Delete for good up to `limit` resources whose purge time has come. Returns how many those
        were."""
        return await store_deleted.purge_expired(self._connection, self.stamp.now, limit)

    async def holder_of(self, served_name: str) -> str | None:
        """Resource name of who has this served name."""
        query = select(served_names.c.resource).where(served_names.c.served_name == served_name)
        holder: str | None = (await self._connection.execute(query)).scalar_one_or_none()
        return holder

    async def adapters_of(self, model_id: str, *, rank_above: int = 0) -> tuple[Sequence[tuple[str, int]], int]:
        """Name and rank of some adapters of a model that have a rank above the given one, and how
        many those are."""
        live = adapters.c.delete_time_us.is_(None)
        matching = live & (adapters.c.model_id == model_id) & (adapters.c.rank > rank_above)
        count = (
            await self._connection.execute(select(func.count()).select_from(adapters).where(matching))
        ).scalar_one()
        query = select(adapters.c.id, adapters.c.rank).where(matching).order_by(adapters.c.id).limit(NAMED_MAX)
        rows = await self._connection.execute(query) if count else ()
        return tuple((names.adapter_name(model_id, row.id), row.rank) for row in rows), count

    async def put_model(self, model: domain.Model, previous: domain.Model | None) -> None:
        """Write a model in place of `previous`, what is there now.

        Raises:
            errors.InvalidArgument: its entry is too large.
        """
        entry = snapshot.model_entry(model)
        values = store_rows.model_values(model)
        await self._put(models, values, {"id": model.id} if previous is not None else None)
        if previous is None or previous.revision.number != model.revision.number:
            await self._connection.execute(insert(model_revisions).values(**store_rows.model_revision_values(model)))
        await self._name(model.name, model.served_name, _served_name(previous))
        await self._set_entry(model.name, entry)

    async def put_adapter(self, adapter: domain.Adapter, previous: domain.Adapter | None) -> None:
        """Write an adapter in place of `previous`, what is there now.

        Raises:
            errors.InvalidArgument: its entry is too large.
        """
        entry = snapshot.adapter_entry(adapter)
        values = store_rows.adapter_values(adapter)
        key = {"model_id": adapter.model_id, "id": adapter.id}
        await self._put(adapters, values, key if previous is not None else None)
        if previous is None or previous.revision.number != adapter.revision.number:
            await self._connection.execute(
                insert(adapter_revisions).values(**store_rows.adapter_revision_values(adapter))
            )
        await self._name(adapter.name, adapter.served_name, _served_name(previous))
        await self._set_entry(adapter.name, entry)

    async def delete_model(self, model_id: str) -> None:
        """Delete a model and its adapters. They can be undeleted until the stamp's purge time."""
        live = (adapters.c.model_id == model_id) & adapters.c.delete_time_us.is_(None)
        for adapter_id in (await self._connection.execute(select(adapters.c.id).where(live))).scalars().all():
            await self.delete_adapter(model_id, adapter_id)
        await self._delete(models, names.model_name(model_id), models.c.id == model_id)

    async def delete_adapter(self, model_id: str, adapter_id: str) -> None:
        """Delete an adapter. It can be undeleted until the stamp's purge time."""
        condition = (adapters.c.model_id == model_id) & (adapters.c.id == adapter_id)
        await self._delete(adapters, names.adapter_name(model_id, adapter_id), condition)

    async def _delete(self, table: Table, name: str, condition: ColumnElement[bool]) -> None:
        now_us = store_rows.to_us(self.stamp.now)
        await self._connection.execute(delete(served_names).where(served_names.c.resource == name))
        await self._connection.execute(
            update(table)
            .where(condition)
            .values(
                delete_time_us=now_us,
                purge_time_us=store_rows.to_us(self.stamp.purge_time),
                update_time_us=now_us,
                catalog_revision=self.stamp.catalog_revision,
            )
        )
        await self._set_entry(name, None)

    async def answered_request(self, request_id: str, *, since: datetime) -> AnsweredRequest | None:
        """The request that was carried out under this id after `since`, if there was one."""
        return await store_requests.find(self._connection, request_id, since=since)

    async def keep_answered_request(self, answered: AnsweredRequest, *, since: datetime) -> None:
        """Keep a request that is carried out in this transaction; those before `since` may be
        forgotten."""
        await store_requests.keep(self._connection, answered, since=since)

    async def put_data_plane(self, record: domain.DataPlaneRecord) -> None:
        """Write what is known of a data plane. It is no part of the catalog: no revision is made
        for it."""
        values = store_rows.data_plane_values(record)
        updated = await self._connection.execute(
            update(data_planes).where(data_planes.c.id == record.id).values(**values)
        )
        if updated.rowcount == 0:
            await self._connection.execute(insert(data_planes).values(**values))

    async def differences_to(self, revision: int, *, limit: int) -> Sequence[store_history.Difference]:
        """What a kept snapshot has otherwise than the newest, by name. To be asked before anything
        is changed.

        Raises:
            errors.NotFound: there is no such revision.
        """
        newest = self.head.position.revision
        kept = catalog_revisions.c.revision
        query = select(kept).where(kept == revision)
        # A number beyond 64 bits fits no column, and is no revision.
        if revision > newest or (await self._connection.execute(query)).one_or_none() is None:
            oldest = (await self._connection.execute(select(func.min(kept)))).scalar_one()
            raise errors.revision_not_found(revision, oldest, newest)
        return await store_history.differences(self._connection, newest, revision, after_name="", limit=limit)

    async def free_served_names(self, resources: Sequence[str]) -> None:
        """Let go of the served names of these resources, until each takes one again in this
        transaction."""
        query = select(served_names.c.resource).where(served_names.c.resource.in_(resources))
        for resource in (await self._connection.execute(query)).scalars().all():
            # No served name can have this form, so it is in nobody's way.
            await self.retake_served_name(resource, f"~{resource}")

    async def retake_served_name(self, resource: str, served_name: str) -> None:
        """Let a resource that had a served name have this one."""
        await self._connection.execute(
            update(served_names).where(served_names.c.resource == resource).values(served_name=served_name)
        )

    async def delete_audit_events(self, *, before: datetime, limit: int) -> int:
        """Delete up to `limit` of the oldest audit events of before this time. No revision is made
        for it."""
        return await store_audit.delete_events(self._connection, before=before, limit=limit)

    async def _put(self, table: Table, values: Mapping[str, object], key: Mapping[str, object] | None) -> None:
        if key is None:
            await self._connection.execute(insert(table).values(**values))
        else:
            conditions = (table.c[column] == value for column, value in key.items())
            await self._connection.execute(update(table).where(*conditions).values(**values))

    async def _name(self, resource: str, served_name: str, previous: str | None) -> None:
        if previous is None:
            await self._connection.execute(insert(served_names).values(served_name=served_name, resource=resource))
        elif previous != served_name:
            await self._connection.execute(
                update(served_names).where(served_names.c.resource == resource).values(served_name=served_name)
            )

    async def _set_entry(self, name: str, entry: domain.Entry | None) -> None:
        revision = self.stamp.catalog_revision
        current = entries.c.to_revision.is_(None) & (entries.c.name == name)
        query = select(entries.c.type, entries.c.digest, blobs.c.size_bytes).join(
            blobs, blobs.c.digest == entries.c.digest
        )
        before = (await self._connection.execute(query.where(current))).one_or_none()
        if before is not None:
            await self._connection.execute(update(entries).where(current).values(to_revision=revision))
            self._digest = self._digest.removed(name, before.type, before.digest)
        if entry is not None:
            await self._put_blob(entry)
            await self._connection.execute(
                insert(entries).values(name=name, from_revision=revision, type=entry.type, digest=entry.digest)
            )
            self._digest = self._digest.added(name, entry.type, entry.digest)
        self._note(
            name,
            audit.EntryRef(type=before.type, digest=before.digest, size_bytes=before.size_bytes) if before else None,
            audit.EntryRef(type=entry.type, digest=entry.digest, size_bytes=len(entry.blob)) if entry else None,
        )
        self._changed = True

    def _note(self, name: str, before: audit.EntryRef | None, after: audit.EntryRef | None) -> None:
        noted = self._changes.get(name)
        if noted is not None:
            self._changes[name] = dataclasses.replace(noted, after=after)
            return
        self._change_count += 1
        if len(self._changes) < audit.CHANGES_MAX:
            self._changes[name] = audit.EntryChange(name=name, before=before, after=after)

    async def _put_blob(self, entry: domain.Entry) -> None:
        known = await self._connection.execute(select(blobs.c.digest).where(blobs.c.digest == entry.digest))
        if known.one_or_none() is None:
            await self._connection.execute(
                insert(blobs).values(digest=entry.digest, size_bytes=len(entry.blob), blob=entry.blob)
            )


def _served_name(resource: domain.Model | domain.Adapter | None) -> str | None:
    """The served name that the resource holds; a deleted one holds none."""
    return resource.served_name if resource is not None and resource.delete_time is None else None
