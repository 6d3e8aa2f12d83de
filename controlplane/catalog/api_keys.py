"""API keys of the data planes: how they are created and revoked, and what is shown of them. Pure.

The key itself is never stored: only its hash, and its first characters for people to recognise it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from broadsheet.v1 import api_key_pb2
from controlplane import errors
from controlplane.catalog import convert
from controlplane.catalog.domain import Stamp
from protocol import names
from protocol.api_keys import SHOWN_CHARACTERS, key_hash
from protocol.validation import FieldViolation


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is stored of a key."""

    id: str
    uid: str
    """Identity for its whole life."""
    key_hash: bytes = field(repr=False)
    """`protocol.api_keys.key_hash` of the key, 32 bytes."""
    key_prefix: str
    display_name: str
    labels: Mapping[str, str]
    limits: api_key_pb2.ApiKeyLimits
    """Shared by all holders of the record. Must not be changed."""
    expire_time: datetime | None
    create_time: datetime
    revoke_time: datetime | None
    catalog_revision: int
    """The revision of its last change."""

    @property
    def name(self) -> str:
        """Resource name."""
        return names.api_key_name(self.id)


def created(request: api_key_pb2.CreateApiKeyRequest, key: str, current: ApiKey | None, stamp: Stamp) -> ApiKey:
    """The key that a request creates.

    Args:
        request: Already checked by the rules in its proto.
        key: The key itself.
        current: The key that has this id now, revoked or not.
        stamp: Time, uid and revision of the change.

    Raises:
        errors.AlreadyExists: The id is taken.
        errors.InvalidArgument: The expire time has passed, or is out of range.
    """
    name = names.api_key_name(request.api_key_id)
    if current is not None:
        description = f"got {request.api_key_id!r}: {name} exists already; each key needs an id of its own"
        raise errors.AlreadyExists(
            errors.Reason.API_KEY_EXISTS,
            f"api_key_id: {description}",
            violations=(FieldViolation(field="api_key_id", description=description),),
            metadata={"resource": name},
        )
    limits = api_key_pb2.ApiKeyLimits()
    limits.CopyFrom(request.limits)
    limits.DiscardUnknownFields()
    return ApiKey(
        id=request.api_key_id,
        uid=stamp.uid,
        key_hash=key_hash(key),
        key_prefix=key[:SHOWN_CHARACTERS],
        display_name=request.display_name,
        labels=dict(request.labels),
        limits=limits,
        expire_time=_expire_time(request, stamp.now),
        create_time=stamp.now,
        revoke_time=None,
        catalog_revision=stamp.catalog_revision,
    )


def _expire_time(request: api_key_pb2.CreateApiKeyRequest, now: datetime) -> datetime | None:
    if not request.HasField("expire_time"):
        return None
    try:
        expire_time = convert.timestamp_from_proto(request.expire_time)
    except (ValueError, OverflowError):
        raise errors.InvalidArgument.of_field("expire_time", "not a time between the years 1 and 9999") from None
    if expire_time <= now:
        raise errors.InvalidArgument.of_field(
            "expire_time", f"got {expire_time.isoformat()}, and it is {now.astimezone(UTC).isoformat()}; must be later"
        )
    return expire_time


def revoked(current: ApiKey, stamp: Stamp) -> ApiKey:
    """The key after it is revoked. `current` itself if it was revoked before."""
    if current.revoke_time is not None:
        return current
    return replace(current, revoke_time=stamp.now, catalog_revision=stamp.catalog_revision)


def entry_of(api_key: ApiKey) -> api_key_pb2.ApiKeyEntry:
    """The key in a snapshot, for data planes."""
    entry = api_key_pb2.ApiKeyEntry(name=api_key.name, uid=api_key.uid)
    if api_key.revoke_time is not None:
        entry.revoked = True
        return entry
    entry.key_hash = api_key.key_hash
    entry.limits.CopyFrom(api_key.limits)
    if api_key.expire_time is not None:
        entry.expire_time.CopyFrom(convert.timestamp_to_proto(api_key.expire_time))
    return entry


def to_proto(api_key: ApiKey) -> api_key_pb2.ApiKey:
    """The key in API answers, without the key itself."""
    return api_key_pb2.ApiKey(
        name=api_key.name,
        uid=api_key.uid,
        display_name=api_key.display_name,
        labels=api_key.labels,
        limits=api_key.limits,
        expire_time=convert.timestamp_to_proto(api_key.expire_time) if api_key.expire_time is not None else None,
        key_prefix=api_key.key_prefix,
        create_time=convert.timestamp_to_proto(api_key.create_time),
        revoke_time=convert.timestamp_to_proto(api_key.revoke_time) if api_key.revoke_time is not None else None,
        catalog_revision=api_key.catalog_revision,
    )


def not_found(name: str) -> errors.NotFound:
    """The error for a resource name that no key has."""
    return errors.NotFound(errors.Reason.API_KEY_NOT_FOUND, f"{name} does not exist", metadata={"resource": name})
