"""Every exception that the client raises for a failed call. Pure.

A raw `grpc.RpcError` never leaves the client.

BroadsheetError
├── InvalidArgument        a field is wrong: see `violations`
│   └── InvalidSpec        the same, found by the client before it sent anything
├── OutOfRange             a number is past the end of what exists
├── NotFound               no such model, adapter, data plane or revision
├── AlreadyExists          the name is taken
├── FailedPrecondition     not possible in the present state, such as deleting a model with adapters
├── Aborted                the resource changed at the same time; read it again, then repeat
├── Unauthenticated        no credentials, or wrong ones
├── PermissionDenied       these credentials may not do this
├── ResourceExhausted      a limit was reached: size, count, rate
├── Unimplemented          the control plane is older than this client
├── Unavailable            the control plane is unreachable or stopping, also after retries
├── DeadlineExceeded       no answer in time; whether a write was done is unknown
│   └── ServingTimeout     not served everywhere in time: see `progress`
├── Cancelled              the call was cancelled, but not by the caller's own task
├── DataLoss               stored bytes are damaged, or an answer that is given once was lost
├── Internal               a fault of the control plane; its log says more under the message's id
├── Unknown                none of the above
└── ServingFailed          a data plane cannot serve it: see `data_plane` and `reason`
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from broadsheet.progress import ServingProgress
from protocol.validation import FieldViolation

NO_METADATA: Mapping[str, str] = MappingProxyType({})


class BroadsheetError(Exception):
    """Base of all. `str()` gives the message and the fields at fault."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] = NO_METADATA,
        request: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        """What went wrong, in words."""
        self.reason = reason
        """UPPER_SNAKE, for programs: `SERVED_NAME_TAKEN`. Where the server gave none, the name of
        the status code: `UNAVAILABLE`."""
        self.violations = violations
        """The fields at fault, each with what was given and what is allowed. Empty unless the input
        was wrong."""
        self.metadata = metadata
        """Further facts from the server's `google.rpc.ErrorInfo`, such as a resource name."""
        self.request = request
        """The RPC that failed, such as `RegisterModel`. Empty when nothing was sent."""

    def __str__(self) -> str:
        # The control plane's messages already name the first fields at fault.
        rest = [violation for violation in self.violations if violation.description not in self.message]
        return "\n".join([self.message, *(f"  {_show(violation)}" for violation in rest)])


class InvalidArgument(BroadsheetError):
    """A field is wrong. `violations` says which, what was given and what is allowed."""


class InvalidSpec(InvalidArgument):
    """A spec is wrong. The client found it; nothing was sent."""

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
    """The resource changed at the same time. Read it again, then repeat."""


class Unauthenticated(BroadsheetError):
    """No credentials, or wrong ones."""


class PermissionDenied(BroadsheetError):
    """These credentials may not do this."""


class ResourceExhausted(BroadsheetError):
    """A limit was reached: the size of a message, a count, a rate."""


class Unimplemented(BroadsheetError):
    """The control plane does not know this RPC."""


class Unavailable(BroadsheetError):
    """The control plane is unreachable or shutting down. The RPC was already retried."""


class DeadlineExceeded(BroadsheetError):
    """No answer in time. Whether a write was done is unknown; repeating a registration is safe."""


class Cancelled(BroadsheetError):
    """The call was cancelled by something other than the caller's own task."""


class DataLoss(BroadsheetError):
    """Stored bytes are damaged, or an answer that is given only once was lost."""


class Internal(BroadsheetError):
    """A fault of the control plane. Its log has more under the id in the message."""


class Unknown(BroadsheetError):
    """A status that is none of the others."""


class ServingFailed(BroadsheetError):
    """A data plane cannot serve the resource.

    Its state there is FAILED or QUARANTINED, or the data plane REJECTED the snapshot.
    """

    def __init__(self, message: str, *, reason: str, data_plane: str, resource: str) -> None:
        super().__init__(message, reason=reason)
        self.data_plane = data_plane
        """`dataPlanes/{data_plane}`."""
        self.resource = resource
        """`models/{model}` or `models/{model}/adapters/{adapter}`."""


class ServingTimeout(DeadlineExceeded):
    """Some connected data plane does not serve the resource yet. It may still come up."""

    def __init__(self, message: str, *, progress: ServingProgress) -> None:
        super().__init__(message, reason="SERVING_TIMEOUT")
        self.progress = progress
        """How far each data plane got."""


def _show(violation: FieldViolation) -> str:
    return f"{violation.field}: {violation.description}" if violation.field else violation.description
