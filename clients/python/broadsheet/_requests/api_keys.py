"""Creating an API key: its expiry, and the response that is the only one with the key."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from broadsheet.errors import DataLoss
from broadsheet.types import CreateApiKeyResponse
from broadsheet.v1.api_key_pb2 import CreateApiKeyRequest


def expiry(moment: datetime | None) -> Timestamp | None:
    """When a key expires. A time without a zone is UTC."""
    if moment is None:
        return None
    value = Timestamp()
    value.FromDatetime(moment)
    return value


def with_key(request: CreateApiKeyRequest, response: CreateApiKeyResponse) -> CreateApiKeyResponse:
    """Return `response` if it holds the key.

    Raises:
        DataLoss: A first attempt created the key, and the response with the key was lost. The key
            is stored nowhere.
    """
    if response.key or request.validate_only:
        return response
    raise DataLoss(
        f"{response.api_key.name} was created, but the response with the key was lost, and it is stored nowhere; "
        "revoke it, and create another",
        reason="API_KEY_LOST",
        request="CreateApiKey",
    )
