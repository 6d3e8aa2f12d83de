"""API keys: who may call which models over the OpenAI API of the data planes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime

from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._requests.api_keys import expiry, with_key
from broadsheet._requests.names import api_key_resource
from broadsheet.types import ApiKey, ApiKeyLimits, CreateApiKeyResponse, RevokeApiKeyResponse
from broadsheet.v1 import api_key_pb2 as pb


class AsyncApiKeys(AsyncConnection):
    """The RPCs on API keys."""

    async def create_api_key(
        self,
        api_key_id: str,
        *,
        allowed_served_names: Iterable[str],
        requests_per_minute: int = 0,
        tokens_per_minute: int = 0,
        expire_time: datetime | None = None,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> CreateApiKeyResponse:
        """Create a key. Only this response contains the key itself.

        Args:
            api_key_id: Last part of the resource name. It can never be reused.
            allowed_served_names: Patterns of the names that the key may call and see: `*` stands
                for any characters, `?` for one.
            requests_per_minute: 0: no limit.
            tokens_per_minute: 0: no limit.
            expire_time: When the key expires (aware, or naive in UTC). None: never.
            display_name: A name for people.
            labels: Free key-value pairs.
            validate_only: Check everything, create no key, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer, without the key.
                Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidArgument: A field breaks a rule.
            AlreadyExists: There is or was a key of this id.
            DataLoss: The key was created, but the response with it was lost: revoke it, and create
                another.
        """
        request = pb.CreateApiKeyRequest(
            api_key_id=api_key_id,
            display_name=display_name,
            labels=labels or {},
            limits=ApiKeyLimits(
                allowed_served_names=allowed_served_names,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
            ),
            expire_time=expiry(expire_time),
            validate_only=validate_only,
            request_id=request_id,
        )
        return with_key(request, await self._call(self._registry.CreateApiKey, request, timeout_s))

    async def get_api_key(self, api_key: str, *, timeout_s: float | None = None) -> ApiKey:
        """Get the description of a key, without the key itself.

        Raises:
            NotFound: There is no such key.
        """
        request = pb.GetApiKeyRequest(name=api_key_resource(api_key))
        return (await self._call(self._registry.GetApiKey, request, timeout_s)).api_key

    async def list_api_keys(self, *, timeout_s: float | None = None) -> AsyncIterator[ApiKey]:
        """List keys by id, revoked keys included."""
        async for page in self._pages(self._registry.ListApiKeys, pb.ListApiKeysRequest(), timeout_s):
            for api_key in page.api_keys:
                yield api_key

    async def revoke_api_key(
        self, api_key: str, *, validate_only: bool = False, request_id: str = "", timeout_s: float | None = None
    ) -> RevokeApiKeyResponse:
        """Revoke a key for good.

        Every connected data plane is told at once, beside snapshots, and refuses it from then on
        whatever snapshot it serves. `wait_for_revocation` waits for that.

        Args:
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such key.
        """
        name = api_key_resource(api_key)
        request = pb.RevokeApiKeyRequest(name=name, validate_only=validate_only, request_id=request_id)
        return await self._call(self._registry.RevokeApiKey, request, timeout_s)
