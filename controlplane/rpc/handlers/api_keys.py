"""The RPCs of API keys."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from broadsheet.v1 import api_key_pb2 as pb
from controlplane.catalog import api_keys
from controlplane.catalog.api_keys import ApiKey
from controlplane.listing import paging
from controlplane.rpc.handlers import consistency, idempotency
from controlplane.rpc.handlers.registry import Registry
from controlplane.store.transactions import WriteTransaction
from protocol import names
from protocol.api_keys import key_of

SECRET_BYTES = 32
"""Random bytes of a key."""


def random_key() -> str:
    """A new API key."""
    return key_of(secrets.token_urlsafe(SECRET_BYTES))


class ApiKeyHandler:
    """Creates, reads and revokes API keys."""

    def __init__(self, registry: Registry, new_key: Callable[[], str] = random_key) -> None:
        """
        Args:
            registry: Where keys are kept.
            new_key: Makes a key that nobody can guess.
        """
        self._registry = registry
        self._new_key = new_key

    async def create_api_key(self, request: pb.CreateApiKeyRequest) -> pb.CreateApiKeyResponse:
        key = self._new_key()

        async def work(transaction: WriteTransaction) -> pb.CreateApiKeyResponse:
            current = await transaction.api_keys.find(request.api_key_id)
            created = api_keys.created(request, key, current, transaction.stamp)
            await transaction.api_keys.put(created, None)
            return pb.CreateApiKeyResponse(
                api_key=api_keys.to_proto(created), key=key, catalog_revision=created.catalog_revision
            )

        answer = await idempotency.commit(
            self._registry.store,
            request,
            pb.CreateApiKeyResponse,
            work,
            resource=names.api_key_name(request.api_key_id),
            kept=_without_key,
        )
        return _without_key(answer) if request.validate_only else answer

    async def get_api_key(self, request: pb.GetApiKeyRequest) -> pb.GetApiKeyResponse:
        found = await self._registry.store.api_keys.get(names.parse_api_key(request.name))
        return pb.GetApiKeyResponse(api_key=api_keys.to_proto(found))

    async def list_api_keys(self, request: pb.ListApiKeysRequest) -> pb.ListApiKeysResponse:
        async def read(after_id: str, limit: int) -> Sequence[ApiKey]:
            return await self._registry.store.api_keys.list(after_id=after_id, limit=limit)

        page = await paging.page_by_id(request, read, key=lambda api_key: api_key.id, to_proto=api_keys.to_proto)
        return pb.ListApiKeysResponse(api_keys=page.items, next_page_token=page.next_page_token)

    async def revoke_api_key(self, request: pb.RevokeApiKeyRequest) -> pb.RevokeApiKeyResponse:
        async def work(transaction: WriteTransaction) -> pb.RevokeApiKeyResponse:
            current = await transaction.api_keys.find(names.parse_api_key(request.name))
            if current is None:
                raise api_keys.not_found(request.name)
            revoked = api_keys.revoked(current, transaction.stamp)
            changed = revoked is not current
            if changed:
                await transaction.api_keys.put(revoked, current)
                sequence = transaction.revocations.sequence
            else:
                sequence = await transaction.revocations.sequence_of(revoked.uid)
            return pb.RevokeApiKeyResponse(
                api_key=api_keys.to_proto(revoked),
                catalog_revision=consistency.revision_with(transaction, changed=changed),
                revocations_sequence=sequence,
            )

        return await idempotency.commit(
            self._registry.store, request, pb.RevokeApiKeyResponse, work, resource=request.name
        )


def _without_key(answer: pb.CreateApiKeyResponse) -> pb.CreateApiKeyResponse:
    """The answer without the key, which is shown once and stored nowhere."""
    kept = pb.CreateApiKeyResponse()
    kept.CopyFrom(answer)
    kept.ClearField("key")
    return kept
