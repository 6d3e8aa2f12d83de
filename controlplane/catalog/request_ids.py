"""Idempotency by `request_id` (AIP-155): whether a request repeats an earlier one. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from google.protobuf import message as protobuf_message
from google.protobuf.descriptor import Descriptor

from controlplane import errors
from controlplane.principal import Principal
from protocol.validation import FieldViolation

RETENTION = timedelta(hours=24)
"""How long the first answer is kept, as the protos promise. After that the id is free again."""

R = TypeVar("R", bound=protobuf_message.Message)


class MutatingRequest(Protocol):
    """The fields that every mutating request has."""

    @property
    def DESCRIPTOR(self) -> Descriptor: ...  # protobuf's own name

    @property
    def request_id(self) -> str: ...

    @property
    def validate_only(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRequest:
    """A request that was carried out, with its answer."""

    request_id: str
    """UUID4 in lower case."""
    method: str
    """Such as `RegisterModel`."""
    digest: bytes
    """`digest_of` the request, 32 bytes."""
    response: bytes
    """The serialised first answer."""
    create_time: datetime


def method_of(request: MutatingRequest) -> str:
    """The method of `request`, whose message is named after it."""
    return request.DESCRIPTOR.name.removesuffix("Request")


def request_id_of(request: MutatingRequest) -> str:
    """The id in lower case, as ids are compared. Empty: the caller gave none."""
    return request.request_id.lower()


def digest_of(request: protobuf_message.Message, caller: Principal) -> bytes:
    """SHA-256 over a request and its caller, 32 bytes. The request id is left out."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("request_id")
    parts = (request.DESCRIPTOR.full_name, caller.authentication, caller.name)
    content = "\0".join(parts).encode() + b"\0" + asked.SerializeToString(deterministic=True)
    return hashlib.sha256(content).digest()


def repeated(earlier: AnsweredRequest, digest: bytes, response: type[R]) -> R:
    """The first answer, for a repeat of the request.

    Args:
        earlier: The request that was carried out under the id.
        digest: `digest_of` the request that has arrived with the same id.
        response: Class of its answer.

    Raises:
        errors.InvalidArgument: It is a different request.
    """
    if earlier.digest != digest:
        raise _reused(earlier)
    return response.FromString(earlier.response)


def _reused(earlier: AnsweredRequest) -> errors.InvalidArgument:
    description = (
        f"got {earlier.request_id!r}: another {earlier.method} request was carried out under this id at "
        f"{earlier.create_time.isoformat(timespec='seconds')}; each request needs an id of its own, and only an exact "
        "repeat may use one again"
    )
    return errors.InvalidArgument(
        errors.Reason.REQUEST_ID_REUSED,
        f"request_id: {description}",
        violations=(FieldViolation(field="request_id", description=description),),
        metadata={"requestId": earlier.request_id, "method": earlier.method},
    )
