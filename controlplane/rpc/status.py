"""Domain errors as gRPC statuses: the table of codes, and the details of google.rpc. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no stubs

from controlplane import errors

DOMAIN = "broadsheet"
"""`domain` of google.rpc.ErrorInfo."""

CODES: Mapping[type[errors.DomainError], int] = MappingProxyType(
    {
        errors.InvalidArgument: code_pb2.INVALID_ARGUMENT,
        errors.NotFound: code_pb2.NOT_FOUND,
        errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
        errors.FailedPrecondition: code_pb2.FAILED_PRECONDITION,
        errors.Aborted: code_pb2.ABORTED,
        errors.ResourceExhausted: code_pb2.RESOURCE_EXHAUSTED,
        errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
        errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
        errors.Unavailable: code_pb2.UNAVAILABLE,
    }
)
"""The code of every kind of domain error. A test checks that none is missing."""

# A status is sent in the trailers of an HTTP/2 stream, which peers may limit to 8 KiB in all.
# Details are encoded as base64 (4/3). The message is sent twice, once percent-encoded, which
# triples characters that are not ASCII.
_MESSAGE_BYTES_MAX = 600
_DESCRIPTION_BYTES_MAX = 400
_DETAILS_BYTES_MAX = 3500


def status_of(error: errors.DomainError) -> status_pb2.Status:
    """The status of an error whose message callers may see."""
    status = _status(CODES[type(error)], error.message, error.reason, error.metadata)
    violations = error_details_pb2.BadRequest()
    room = _DETAILS_BYTES_MAX - status.ByteSize()
    for violation in error.violations:
        added = violations.field_violations.add(
            field=shortened(violation.field, _DESCRIPTION_BYTES_MAX),
            description=shortened(violation.description, _DESCRIPTION_BYTES_MAX),
        )
        if violations.ByteSize() > room:
            violations.field_violations.remove(added)
            break
    if violations.field_violations:
        _add(status, violations)
    return status


def internal(error_id: str) -> status_pb2.Status:
    """The status of an internal error. Only the log has its text, under `error_id`."""
    return _status(
        code_pb2.INTERNAL,
        f"internal error {error_id}; the control plane's log says more",
        errors.Reason.INTERNAL,
        {"errorId": error_id},
    )


def _status(code: int, message: str, reason: str, metadata: Mapping[str, str]) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=shortened(message, _MESSAGE_BYTES_MAX))
    shown = {key: shortened(value, _DESCRIPTION_BYTES_MAX) for key, value in metadata.items()}
    _add(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=shown))
    return status


def _add(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def shortened(text: str, bytes_max: int) -> str:
    """`text`, cut to at most `bytes_max` bytes of UTF-8."""
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text
    return encoded[: bytes_max - len("…".encode())].decode(errors="ignore") + "…"
