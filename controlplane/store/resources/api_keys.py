"""API keys in the database: how they are read, and what a change of one writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select

from broadsheet.v1 import api_key_pb2
from controlplane.catalog import api_keys, snapshot
from controlplane.catalog.api_keys import ApiKey
from controlplane.store.reading import Reading
from controlplane.store.resources.change import CatalogChange
from controlplane.store.schema import api_keys as table
from controlplane.store.times import from_us, from_us_or_null, to_us, to_us_or_null
from protocol import names


class ApiKeys:
    """The API keys, revoked ones too.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def find(self, api_key_id: str) -> ApiKey | None:
        """The key of this id. None: there is none."""
        async with self._reading.begin() as connection:
            row = (await connection.execute(select(table).where(table.c.id == api_key_id))).one_or_none()
        return _api_key(row) if row is not None else None

    async def get(self, api_key_id: str) -> ApiKey:
        """The key of this id.

        Raises:
            errors.NotFound: there is none.
        """
        found = await self.find(api_key_id)
        if found is None:
            raise api_keys.not_found(names.api_key_name(api_key_id))
        return found

    async def list(self, *, after_id: str, limit: int) -> Sequence[ApiKey]:
        """Up to `limit` keys by id; only those after `after_id`."""
        query = select(table).where(table.c.id > after_id).order_by(table.c.id).limit(limit)
        async with self._reading.begin() as connection:
            return [_api_key(row) for row in await connection.execute(query)]


class ApiKeyChanges(ApiKeys):
    """The API keys in a write transaction."""

    def __init__(self, change: CatalogChange) -> None:
        super().__init__(change.reading)
        self._change = change

    async def put(self, api_key: ApiKey, previous: ApiKey | None) -> None:
        """Write a key in place of `previous`, as `find` returned it."""
        await self._change.put_row(table, _values(api_key), {"id": api_key.id} if previous is not None else None)
        entry = snapshot.entry_of_message(api_key.name, api_keys.entry_of(api_key))
        await self._change.entries.set(api_key.name, entry)
        if api_key.revoke_time is not None and (previous is None or previous.revoke_time is None):
            await self._change.revocations.add(api_key.name, api_key.uid)


def _api_key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        uid=row.uid,
        key_hash=row.key_hash,
        key_prefix=row.key_prefix,
        display_name=row.display_name,
        labels=row.labels,
        limits=api_key_pb2.ApiKeyLimits.FromString(row.limits),
        expire_time=from_us_or_null(row.expire_time_us),
        create_time=from_us(row.create_time_us),
        revoke_time=from_us_or_null(row.revoke_time_us),
        catalog_revision=row.catalog_revision,
    )


def _values(api_key: ApiKey) -> Mapping[str, object]:
    return {
        "id": api_key.id,
        "uid": api_key.uid,
        "key_hash": api_key.key_hash,
        "key_prefix": api_key.key_prefix,
        "display_name": api_key.display_name,
        "labels": dict(api_key.labels),
        "limits": api_key.limits.SerializeToString(deterministic=True),
        "expire_time_us": to_us_or_null(api_key.expire_time),
        "create_time_us": to_us(api_key.create_time),
        "revoke_time_us": to_us_or_null(api_key.revoke_time),
        "catalog_revision": api_key.catalog_revision,
    }
