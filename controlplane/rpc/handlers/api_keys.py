"""The RPCs of API keys."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import grpc

from broadsheet.v1 import api_key_pb2
from controlplane.catalog import api_keys
from controlplane.catalog.api_keys import ApiKey
from controlplane.listing import paging
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol import names
from protocol.api_keys import key_of

SECRET_BYTES = 32
"""Random bytes of a key."""

Context = grpc.aio.ServicerContext[Any, Any]


class ApiKeyRpcs:
    """The part of RegistryService that is about API keys."""

    _store: Store
    _changes: Changes

    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: Context
    ) -> api_key_pb2.CreateApiKeyResponse:
        key = key_of(secrets.token_urlsafe(SECRET_BYTES))

        async def work(transaction: WriteTransaction) -> api_key_pb2.CreateApiKeyResponse:
            current = await transaction.api_key(request.api_key_id)
            created = api_keys.created(request, key, current, transaction.stamp)
            await transaction.put_api_key(created, None)
            return api_key_pb2.CreateApiKeyResponse(
                api_key=api_keys.to_proto(created), key=key, catalog_revision=created.catalog_revision
            )

        answer = await self._changes.commit(
            request,
            api_key_pb2.CreateApiKeyResponse,
            work,
            resource=names.api_key_name(request.api_key_id),
            kept=_without_key,
        )
        return _without_key(answer) if request.validate_only else answer

    async def GetApiKey(self, request: api_key_pb2.GetApiKeyRequest, context: Context) -> api_key_pb2.GetApiKeyResponse:
        found = await self._store.get_api_key(names.parse_api_key(request.name))
        return api_key_pb2.GetApiKeyResponse(api_key=api_keys.to_proto(found))

    async def ListApiKeys(
        self, request: api_key_pb2.ListApiKeysRequest, context: Context
    ) -> api_key_pb2.ListApiKeysResponse:
        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[ApiKey]:
            return await self._store.list_api_keys(after_id=str(cursor[0]) if cursor is not None else "", limit=limit)

        first = paging.cursor(request, request.page_token, str)
        page, following = await paging.read_page(
            read, lambda api_key: (api_key.id,), api_keys.to_proto, first, paging.page_size(request.page_size)
        )
        return api_key_pb2.ListApiKeysResponse(
            api_keys=page, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def RevokeApiKey(
        self, request: api_key_pb2.RevokeApiKeyRequest, context: Context
    ) -> api_key_pb2.RevokeApiKeyResponse:
        async def work(transaction: WriteTransaction) -> api_key_pb2.RevokeApiKeyResponse:
            current = await transaction.api_key(names.parse_api_key(request.name))
            if current is None:
                raise api_keys.not_found(request.name)
            revoked = api_keys.revoked(current, transaction.stamp)
            unchanged = revoked is current
            if not unchanged:
                await transaction.put_api_key(revoked, current)
            return api_key_pb2.RevokeApiKeyResponse(
                api_key=api_keys.to_proto(revoked),
                catalog_revision=transaction.head.position.revision if unchanged else revoked.catalog_revision,
            )

        return await self._changes.commit(request, api_key_pb2.RevokeApiKeyResponse, work, resource=request.name)


def _without_key(answer: api_key_pb2.CreateApiKeyResponse) -> api_key_pb2.CreateApiKeyResponse:
    """The answer without the key: it is shown once, and kept nowhere."""
    kept = api_key_pb2.CreateApiKeyResponse()
    kept.CopyFrom(answer)
    kept.ClearField("key")
    return kept
