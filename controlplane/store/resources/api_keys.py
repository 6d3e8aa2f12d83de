"""API keys in the store: their rows, how they are read, and what writing one does to the
catalog."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import Row, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from broadsheet.v1 import api_key_pb2
from controlplane.catalog import api_keys, domain, snapshot
from controlplane.catalog.api_keys import ApiKey
from controlplane.store.resources import rows as store_rows
from controlplane.store.schema import api_keys as table
from protocol import names


class ApiKeyReads(ABC):
    """The part of the store that reads API keys.

    Every method raises errors.Unavailable when the database fails.
    """

    @abstractmethod
    def _begin_read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction for reading."""

    async def get_api_key(self, api_key_id: str) -> ApiKey:
        """The key of this id.

        Raises:
            errors.NotFound: there is none.
        """
        async with self._begin_read() as connection:
            found = await _find(connection, api_key_id)
        if found is None:
            raise api_keys.not_found(names.api_key_name(api_key_id))
        return found

    async def list_api_keys(self, *, after_id: str, limit: int) -> Sequence[ApiKey]:
        """Keys by id; those after `after_id`."""
        query = select(table).where(table.c.id > after_id).order_by(table.c.id).limit(limit)
        async with self._begin_read() as connection:
            return [_api_key(row) for row in await connection.execute(query)]


class ApiKeyWrites(ABC):
    """The part of a write transaction that is about API keys."""

    _connection: AsyncConnection

    @abstractmethod
    async def _put(self, table: Table, values: Mapping[str, object], key: Mapping[str, object] | None) -> None:
        """Insert a row, or update the one with this key."""

    @abstractmethod
    async def _set_entry(self, name: str, entry: domain.Entry | None) -> None:
        """Make this the entry of that name from this revision on; None: there is none."""

    async def api_key(self, api_key_id: str) -> ApiKey | None:
        """The key of this id, if there is one."""
        return await _find(self._connection, api_key_id)

    async def put_api_key(self, api_key: ApiKey, previous: ApiKey | None) -> None:
        """Write a key in place of `previous`, what is there now."""
        await self._put(table, _values(api_key), {"id": api_key.id} if previous is not None else None)
        await self._set_entry(api_key.name, snapshot.entry_of_message(api_key.name, api_keys.entry_of(api_key)))


async def _find(connection: AsyncConnection, api_key_id: str) -> ApiKey | None:
    row = (await connection.execute(select(table).where(table.c.id == api_key_id))).one_or_none()
    return _api_key(row) if row is not None else None


def _api_key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        uid=row.uid,
        key_hash=row.key_hash,
        key_prefix=row.key_prefix,
        display_name=row.display_name,
        labels=row.labels,
        limits=api_key_pb2.ApiKeyLimits.FromString(row.limits),
        expire_time=store_rows.from_us(row.expire_time_us) if row.expire_time_us is not None else None,
        create_time=store_rows.from_us(row.create_time_us),
        revoke_time=store_rows.from_us(row.revoke_time_us) if row.revoke_time_us is not None else None,
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
        "expire_time_us": store_rows.to_us(api_key.expire_time) if api_key.expire_time is not None else None,
        "create_time_us": store_rows.to_us(api_key.create_time),
        "revoke_time_us": store_rows.to_us(api_key.revoke_time) if api_key.revoke_time is not None else None,
        "catalog_revision": api_key.catalog_revision,
    }
