"""Idempotency of mutating RPCs by `request_id` (AIP-155): when a request is a repeat, and of what.
Pure."""

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
"""How long the first answer is kept and repeated; the protos promise it. Afterwards the same id is
a new request."""

R = TypeVar("R", bound=protobuf_message.Message)


class MutatingRequest(Protocol):
    """A request that changes something: each has these two fields."""

    @property
    def DESCRIPTOR(self) -> Descriptor: ...  # protobuf's own name

    @property
    def request_id(self) -> str: ...

    @property
    def validate_only(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRequest:
    """A request that was carried out, and its answer."""

    request_id: str
    """UUID4 in lower case."""
    method: str
    """Such as `RegisterModel`."""
    digest: bytes
    """SHA-256 that tells this request from others, 32 bytes."""
    response: bytes
    """The serialised answer, as it was given first."""
    create_time: datetime


def method_of(request: MutatingRequest) -> str:
    """The method that takes `request`: its message is named after it."""
    return request.DESCRIPTOR.name.removesuffix("Request")


def request_id_of(request: MutatingRequest) -> str:
    """The id in the form in which ids are compared. Empty: the caller gave none."""
    return request.request_id.lower()


def digest_of(request: protobuf_message.Message, caller: Principal) -> bytes:
    """What tells a request from others, whatever its id is. The same request of another caller is
    another."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("request_id")
    parts = (request.DESCRIPTOR.full_name, caller.authentication, caller.name)
    content = "\0".join(parts).encode() + b"\0" + asked.SerializeToString(deterministic=True)
    return hashlib.sha256(content).digest()


def repeated(earlier: AnsweredRequest, digest: bytes, response: type[R]) -> R:
    """The answer that `earlier` got, for a repeat of it.

    Args:
        earlier: What was carried out under the id.
        digest: `digest_of` the request that has come under the same id.
        response: Class of its answer.

    Raises:
        errors.InvalidArgument: that is another request.
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
