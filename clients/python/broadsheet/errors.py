"""Every exception that the client raises for what went wrong out there. A raw `grpc.RpcError` never
leaves it.

BroadsheetError
├── InvalidArgument        a field is wrong: see `violations`
│   └── InvalidSpec        the same, found before anything was sent; names file and line
├── OutOfRange             a number is past the end of what exists
├── NotFound               there is no such model, adapter, data plane, revision
├── AlreadyExists          the name is taken
├── FailedPrecondition     not in the present state, such as deleting a model with adapters
├── Aborted                somebody else changed it at the same time; read again, then repeat
├── Unauthenticated        no credentials, or wrong ones
├── PermissionDenied       these credentials may not do this
├── ResourceExhausted      a limit was reached: size, count, rate
├── Unimplemented          the control plane is older than this client
├── Unavailable            the control plane cannot be reached or is stopping, also after retries
├── DeadlineExceeded       no answer in time; whether a write was done is unknown
│   └── ServingTimeout     not served everywhere in time: see `progress`
├── Cancelled              the call was cancelled, not by the caller's own task
├── DataLoss               stored bytes are damaged
├── Internal               a fault of the control plane; its log says more under the message's id
├── Unknown                none of the above
└── ServingFailed          a data plane cannot serve it: see `data_plane` and `reason`
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_status import rpc_status

from protocol.validation import FieldViolation

if TYPE_CHECKING:
    from broadsheet.serving import ServingProgress

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class BroadsheetError(Exception):
    """Base of all of them. `str()` gives the message, and the fields at fault."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] = _NO_METADATA,
        request: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        """What went wrong, in words."""
        self.reason = reason
        """UPPER_SNAKE, for programs: `SERVED_NAME_TAKEN`. The status code (`UNAVAILABLE`) where the
        server gave none."""
        self.violations = violations
        """The fields at fault, each with what was got and what is allowed. Empty unless the input
        was wrong."""
        self.metadata = metadata
        """Further facts from the server's `google.rpc.ErrorInfo`, such as the name of the
        resource."""
        self.request = request
        """The RPC that failed, `RegisterModel`. Empty when none was sent."""

    def __str__(self) -> str:
        # The control plane's messages name the first fields at fault themselves.
        rest = [violation for violation in self.violations if violation.description not in self.message]
        return "\n".join([self.message, *(f"  {_show(violation)}" for violation in rest)])


class InvalidArgument(BroadsheetError):
    """A field is wrong. `violations` says which, what was got and what is allowed."""


class InvalidSpec(InvalidArgument):
    """A spec is wrong. Found by this client; nothing was sent."""

    def __init__(self, message: str, *, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message, reason="INVALID_SPEC", violations=violations)


class OutOfRange(BroadsheetError):
    """A number is past the end of what exists."""


class NotFound(BroadsheetError):
    """There is no such resource."""


class AlreadyExists(BroadsheetError):
    """The name is taken."""


class FailedPrecondition(BroadsheetError):
    """Not possible in the present state."""


class Aborted(BroadsheetError):
    """Somebody else changed it at the same time. Read again, then repeat."""


class Unauthenticated(BroadsheetError):
    """No credentials, or wrong ones."""


class PermissionDenied(BroadsheetError):
    """These credentials may not do this."""


class ResourceExhausted(BroadsheetError):
    """A limit was reached: the size of a message, a count, a rate."""


class Unimplemented(BroadsheetError):
    """The control plane does not know this RPC."""


class Unavailable(BroadsheetError):
    """The control plane cannot be reached, or is shutting down. Idempotent RPCs were tried again
    already."""


class DeadlineExceeded(BroadsheetError):
    """No answer in time. Whether a write was done is unknown; registering the same again is
    safe."""


class Cancelled(BroadsheetError):
    """The call was cancelled by something other than the caller's own task."""


class DataLoss(BroadsheetError):
    """Stored bytes are damaged."""


class Internal(BroadsheetError):
    """A fault of the control plane. Its log has more under the id in the message."""


class Unknown(BroadsheetError):
    """An answer that is none of the others."""


class ServingFailed(BroadsheetError):
    """A data plane cannot serve the resource: its state there is FAILED or QUARANTINED, or the
    snapshot was REJECTED."""

    def __init__(self, message: str, *, reason: str, data_plane: str, resource: str) -> None:
        super().__init__(message, reason=reason)
        self.data_plane = data_plane
        """`dataPlanes/{data_plane}`."""
        self.resource = resource
        """`models/{model}` or `models/{model}/adapters/{adapter}`."""


class ServingTimeout(DeadlineExceeded):
    """The resource is not served on every connected data plane yet. It may still come."""

    def __init__(self, message: str, *, progress: ServingProgress) -> None:
        super().__init__(message, reason="SERVING_TIMEOUT")
        self.progress = progress
        """How far each data plane got."""


ERROR_OF_CODE: Mapping[grpc.StatusCode, type[BroadsheetError]] = MappingProxyType(
    {
        grpc.StatusCode.CANCELLED: Cancelled,
        grpc.StatusCode.UNKNOWN: Unknown,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.NOT_FOUND: NotFound,
        grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
        grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
        grpc.StatusCode.ABORTED: Aborted,
        grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
        grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
        grpc.StatusCode.INTERNAL: Internal,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
        grpc.StatusCode.DATA_LOSS: DataLoss,
        grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    }
)
"""Total over every code but OK; a test holds it to that."""


def from_rpc_error(error: grpc.RpcError, request: str) -> BroadsheetError:
    """The typed exception for what gRPC, sync or asyncio, raised from the RPC `request`."""
    call = cast(grpc.Call, error)  # What grpc raises from a call is always a call too; its types do not say so.
    code = call.code()
    reason, metadata, violations = _details(call)
    return ERROR_OF_CODE.get(code, Unknown)(
        call.details() or code.name,
        reason=reason or code.name,
        metadata=metadata,
        violations=violations,
        request=request,
    )


def _details(call: grpc.Call) -> tuple[str, Mapping[str, str], tuple[FieldViolation, ...]]:
    """Reason, metadata and violations from the error details; empty where there are none or they
    cannot be read."""
    reason, metadata, violations = "", _NO_METADATA, list[FieldViolation]()
    try:
        status = rpc_status.from_call(call)
        for detail in status.details if status is not None else ():
            info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                reason, metadata = info.reason, MappingProxyType(dict(info.metadata))
            elif detail.Unpack(bad_request):
                violations += [
                    FieldViolation(field=violation.field, description=violation.description)
                    for violation in bad_request.field_violations
                ]
    except (DecodeError, ValueError):
        # Some other server, or a proxy, wrote something else there. The code and the message still
        # say what happened.
        pass
    return reason, metadata, tuple(violations)


def _show(violation: FieldViolation) -> str:
    return f"{violation.field}: {violation.description}" if violation.field else violation.description
