"""From a gRPC status to the exceptions of `broadsheet.errors`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_status import rpc_status

from broadsheet import errors
from protocol.validation import FieldViolation

ERROR_OF_CODE: Mapping[grpc.StatusCode, type[errors.BroadsheetError]] = MappingProxyType(
    {
        grpc.StatusCode.CANCELLED: errors.Cancelled,
        grpc.StatusCode.UNKNOWN: errors.Unknown,
        grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
        grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
        grpc.StatusCode.NOT_FOUND: errors.NotFound,
        grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
        grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
        grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
        grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
        grpc.StatusCode.ABORTED: errors.Aborted,
        grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRange,
        grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
        grpc.StatusCode.INTERNAL: errors.Internal,
        grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
        grpc.StatusCode.DATA_LOSS: errors.DataLoss,
        grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    }
)
"""Total over every code but OK; a test holds it to that."""


def rpc_name(request: object) -> str:
    """Name of the RPC that a message is the request of: `RegisterModel`."""
    return type(request).__name__.removesuffix("Request")


def from_rpc_error(error: grpc.RpcError, request: str) -> errors.BroadsheetError:
    """The typed exception for an error that gRPC raised, blocking or asyncio.

    Args:
        error: What the stub raised.
        request: Name of the RPC, such as `RegisterModel`.
    """
    call = cast(grpc.Call, error)  # An RpcError of a call is always a Call too; grpc's types do not say so.
    code = call.code()
    reason, metadata, violations = _details(call)
    return ERROR_OF_CODE.get(code, errors.Unknown)(
        call.details() or code.name,
        reason=reason or code.name,
        metadata=metadata,
        violations=violations,
        request=request,
    )


def _details(call: grpc.Call) -> tuple[str, Mapping[str, str], tuple[FieldViolation, ...]]:
    """Reason, metadata and violations in the error details; empty where absent or unreadable."""
    reason, metadata, violations = "", errors.NO_METADATA, list[FieldViolation]()
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
        # A proxy or another server wrote other bytes here. Code and message still say what failed.
        pass
    return reason, metadata, tuple(violations)
