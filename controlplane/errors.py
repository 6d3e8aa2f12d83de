"""The errors of the control plane, in the terms of the registry. Pure.

`controlplane.rpc.status` turns them into gRPC statuses.

DomainError
 ├── InvalidArgument      the request is wrong in any state of the registry
 ├── NotFound             it names something that does not exist
 ├── AlreadyExists        it would create something that exists
 ├── FailedPrecondition   it is illegal in the present state of the registry
 ├── Aborted              something changed meanwhile; the same request may work now
 ├── ResourceExhausted    a limit of the registry is reached
 ├── Unauthenticated      the caller is unknown
 ├── PermissionDenied     the caller may not do this
 └── Unavailable          the control plane cannot answer at the moment
SetupError                the process cannot start; never reaches a caller
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from protocol.validation import FieldViolation


class Reason(enum.StrEnum):
    """Why a request failed: `reason` of google.rpc.ErrorInfo, with advice for the caller."""

    INVALID_FIELDS = "INVALID_FIELDS"
    """Fields break a rule. Correct those that BadRequest lists."""
    UNREADABLE_MESSAGE = "UNREADABLE_MESSAGE"
    """The bytes are not a message of this method. Use a client of this API's release."""
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105  # no password
    """This method did not return the token for this request. Start at the first page."""
    INVALID_FILTER = "INVALID_FILTER"
    """The filter cannot be parsed. The description says where, and what is expected there."""
    INVALID_ORDER_BY = "INVALID_ORDER_BY"
    """A list cannot be sorted by this field. Use the fields that the description lists."""
    INVALID_UPDATE_MASK = "INVALID_UPDATE_MASK"
    """The update mask has a path that cannot be updated. Use those that the description lists."""
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    """Another request had this request id. Send a new UUID4 with each request."""
    UNSUPPORTED_SOURCE = "UNSUPPORTED_SOURCE"
    """This release does not support such a source here. Use a `file:///` source."""
    SOURCE_NOT_ALLOWED = "SOURCE_NOT_ALLOWED"
    """The operator has not allowed sources there. Move the files, or ask the operator."""
    ENGINE_ARGUMENT_NOT_ALLOWED = "ENGINE_ARGUMENT_NOT_ALLOWED"
    """The operator has not allowed this engine argument. Leave it out, or ask the operator."""
    ENGINE_ARGUMENT_RESERVED = "ENGINE_ARGUMENT_RESERVED"
    """Broadsheet sets this engine argument itself. Leave it out; the description says what to use
    instead."""
    ENTRY_TOO_LARGE = "ENTRY_TOO_LARGE"
    """The resource is larger than a snapshot entry may be. Shorten its card, labels or engine
    arguments."""

    ADAPTER_SOURCE_MISSING = "ADAPTER_SOURCE_MISSING"
    """The source directory or a file in it does not exist on the control plane's machine. Correct
    the URI."""
    ADAPTER_SOURCE_UNREADABLE = "ADAPTER_SOURCE_UNREADABLE"
    """A file cannot be read, or is not a regular file. Correct its permissions or its kind."""
    ADAPTER_FILES_INVALID = "ADAPTER_FILES_INVALID"
    """A file is damaged or not of the expected format. Save the adapter again with PEFT."""
    ADAPTER_TOO_LARGE = "ADAPTER_TOO_LARGE"
    """The files are larger than the operator allows."""
    ADAPTER_UNSUPPORTED = "ADAPTER_UNSUPPORTED"
    """The adapter uses a feature that the engine cannot serve. Train it without that feature."""
    ADAPTER_RANK_TOO_HIGH = "ADAPTER_RANK_TOO_HIGH"
    """The rank is above the model's `spec.lora.max_rank`. Register the model with a higher one."""
    ADAPTER_BASE_MISMATCH = "ADAPTER_BASE_MISMATCH"
    """The weights do not fit the base model's. Register the adapter under the model that it was
    trained for."""
    ADAPTER_FILES_CHANGED = "ADAPTER_FILES_CHANGED"
    """A file changed while it was read. Try again when it is completely written."""

    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    """There is no such model. Check the id, or register it."""
    ADAPTER_NOT_FOUND = "ADAPTER_NOT_FOUND"
    """There is no such adapter. Check the id, or register it."""
    DATA_PLANE_NOT_FOUND = "DATA_PLANE_NOT_FOUND"
    """No data plane of this id has ever connected, or it was removed."""
    API_KEY_NOT_FOUND = "API_KEY_NOT_FOUND"
    """There is no such API key. Check the id, or create it."""
    API_KEY_EXISTS = "API_KEY_EXISTS"
    """An API key, perhaps a revoked one, has this id. Choose another id."""
    REVISION_NOT_FOUND = "REVISION_NOT_FOUND"
    """The catalog, model or adapter has no such revision yet, or no longer keeps it."""
    SERVED_NAME_TAKEN = "SERVED_NAME_TAKEN"
    """Another model, adapter or route has this served name. Choose another name, or delete the one
    that has it."""
    MODEL_HAS_ADAPTERS = "MODEL_HAS_ADAPTERS"
    """The model has adapters. Delete them first, or delete with `force`."""
    MODEL_TAKES_NO_ADAPTERS = "MODEL_TAKES_NO_ADAPTERS"
    """The model has no `spec.lora`. Register it with one."""
    ADAPTERS_WOULD_NOT_FIT = "ADAPTERS_WOULD_NOT_FIT"
    """The new spec would not serve adapters that the model has, or revisions of them that routes
    pin. Keep `spec.lora` large enough, or delete them or change the routes first."""
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    """There is no such route. Check the id, or set it."""
    ROUTE_TARGET_NOT_FOUND = "ROUTE_TARGET_NOT_FOUND"
    """The route refers to a model, adapter or revision that does not exist. Register it first, or
    correct the name."""
    REFERRED_TO_BY_ROUTES = "REFERRED_TO_BY_ROUTES"
    """Routes refer to it. Change or delete them first, or delete with `force`, which takes it out
    of them."""
    ROUTE_WOULD_BE_EMPTY = "ROUTE_WOULD_BE_EMPTY"
    """A route would be left without a target that gets requests. Change or delete that route
    first."""
    ALREADY_REGISTERED = "ALREADY_REGISTERED"
    """It exists, and the request has `must_create`. Choose another id, or omit `must_create`."""
    STILL_DELETED = "STILL_DELETED"
    """A deleted resource keeps this id until its purge time. Undelete it, or choose another id."""
    NOT_DELETED = "NOT_DELETED"
    """It is not deleted, so it cannot be undeleted."""
    BASE_MODEL_DELETED = "BASE_MODEL_DELETED"
    """The base model of the adapter is deleted. Undelete the model first."""
    ETAG_MISMATCH = "ETAG_MISMATCH"
    """It has changed since the etag was read. Read it again before you change it."""
    ROLLOUT_NOT_IN_STATE = "ROLLOUT_NOT_IN_STATE"
    """The model has no rollout, or its rollout is already paused or running. Read it again."""
    CONCURRENT_CHANGE = "CONCURRENT_CHANGE"
    """A resource that the request depends on has changed meanwhile. Try again."""
    ROLLBACK_TOO_LARGE = "ROLLBACK_TOO_LARGE"
    """The snapshot differs in more resources than a change may have. Roll back in smaller steps."""
    PINNED_REVISION_GONE = "PINNED_REVISION_GONE"
    """A route in that snapshot pins a revision of a resource that is deleted now. Choose another
    snapshot."""
    CATALOG_FULL = "CATALOG_FULL"
    """The catalog has as many entries, or bytes, as a snapshot may have. Delete some resources."""

    PROTOCOL_VIOLATION = "PROTOCOL_VIOLATION"
    """A message on a Sync stream was illegal at that time. A bug in the data plane."""
    DATA_PLANE_SILENT = "DATA_PLANE_SILENT"
    """A data plane did not read or send anything for too long. It reconnects by itself."""
    TOO_MANY_DATA_PLANES = "TOO_MANY_DATA_PLANES"
    """The limit of data planes is reached. Remove those that are gone, and look for one whose id
    changes at each start."""
    DATA_PLANE_CONNECTED = "DATA_PLANE_CONNECTED"
    """The data plane is connected. Stop it first, or remove it with `force`."""
    TOO_MANY_WAITERS = "TOO_MANY_WAITERS"
    """Too many calls already wait for revisions. Try again later."""
    TOO_MANY_UNKNOWN_CALLERS = "TOO_MANY_UNKNOWN_CALLERS"
    """There are too many health watches, or calls whose caller is not known yet, from this address
    or in all. End some, or try again later."""

    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105  # no password
    """The call carries no credentials. Send `authorization: Bearer TOKEN`, or show a client
    certificate."""
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105  # no password
    """The control plane does not know the token. Check that it is complete, and is for this control
    plane."""
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105  # no password
    """The token has expired. Get a new one."""
    CERTIFICATE_UNKNOWN = "CERTIFICATE_UNKNOWN"
    """The client certificate is valid, but none of its names has a role. Ask the operator."""
    PERMISSION_DENIED = "PERMISSION_DENIED"
    """The role of the caller may not do this. The metadata names the permission, and the roles that
    have it."""
    DATA_PLANE_MISMATCH = "DATA_PLANE_MISMATCH"
    """These credentials are for another data plane. Use those of this data plane, or correct its
    id."""
    DATA_PLANE_BOUND = "DATA_PLANE_BOUND"
    """The data plane has a credential of its own, and these are others. Use its own."""
    DATA_PLANE_UNBOUND = "DATA_PLANE_UNBOUND"
    """These credentials are for no data plane in particular, and the operator does not accept such.
    Ask for a token or certificate that is for this data plane."""
    ALREADY_ENROLLED = "ALREADY_ENROLLED"
    """The data plane has a credential by enrolment. Give `renew` to replace it."""
    ENROLLMENT_TOKEN_INVALID = "ENROLLMENT_TOKEN_INVALID"  # noqa: S105  # no password
    """The control plane does not know the enrolment token, or a newer one has replaced it."""
    ENROLLMENT_TOKEN_EXPIRED = "ENROLLMENT_TOKEN_EXPIRED"  # noqa: S105  # no password
    """The enrolment token has expired. Ask for a new one."""
    ENROLLMENT_TOKEN_SPENT = "ENROLLMENT_TOKEN_SPENT"  # noqa: S105  # no password
    """Another credential was got with the enrolment token. Ask for a new one, with `renew`."""
    ENROLLMENT_TOKEN_MISMATCH = "ENROLLMENT_TOKEN_MISMATCH"  # noqa: S105  # no password
    """The enrolment token is for another data plane."""
    IDENTITY_PROVIDER_UNAVAILABLE = "IDENTITY_PROVIDER_UNAVAILABLE"
    """The keys that verify tokens cannot be fetched at the moment. Try again later."""

    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """The database does not answer, or its disk is full. A write may have been made: try again."""
    SHUTTING_DOWN = "SHUTTING_DOWN"
    """This control plane is stopping. Try again: another or the restarted control plane answers."""
    INTERNAL = "INTERNAL"
    """A bug in the control plane. Its log has the details under the error id."""


class DomainError(Exception):
    """An error that is shown to the caller. Its text contains no secrets."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        """The fields that are invalid."""
        self.metadata = metadata
        """Details for programs, such as the resource that conflicts; keys in lowerCamelCase."""


class InvalidArgument(DomainError):
    """The request is wrong in any state of the registry."""

    @classmethod
    def of_fields(cls, violations: Sequence[FieldViolation], reason: Reason = Reason.INVALID_FIELDS) -> InvalidArgument:
        """An error for all of `violations`, of which there is at least one."""
        shown = "; ".join(
            f"{violation.field}: {violation.description}" if violation.field else violation.description
            for violation in violations[:_VIOLATIONS_SHOWN]
        )
        more = len(violations) - _VIOLATIONS_SHOWN
        return cls(reason, f"{shown}; and {more} more" if more > 0 else shown, violations=violations)

    @classmethod
    def of_field(cls, field: str, description: str, reason: Reason = Reason.INVALID_FIELDS) -> InvalidArgument:
        """An error about a field."""
        return cls.of_fields((FieldViolation(field=field, description=description),), reason)


class NotFound(DomainError):
    """The request names something that does not exist."""


class AlreadyExists(DomainError):
    """The request would create something that exists."""


class FailedPrecondition(DomainError):
    """The request is illegal in the present state of the registry."""


class Aborted(DomainError):
    """Something has changed meanwhile; the same request may work now."""


class ResourceExhausted(DomainError):
    """A limit of the registry is reached."""


class Unauthenticated(DomainError):
    """The caller is unknown."""


class PermissionDenied(DomainError):
    """The caller may not do this."""


class Unavailable(DomainError):
    """The control plane cannot answer at the moment."""


class SetupError(Exception):
    """The process cannot start. Its text is a line for the person who started it."""


_VIOLATIONS_SHOWN = 3
"""Fields that the message names; BadRequest lists all."""


def model_not_found(name: str) -> NotFound:
    """There is no model of this resource name."""
    return NotFound(Reason.MODEL_NOT_FOUND, f"{name} does not exist, or is deleted", metadata={"resource": name})


def adapter_not_found(name: str) -> NotFound:
    """There is no adapter of this resource name."""
    return NotFound(Reason.ADAPTER_NOT_FOUND, f"{name} does not exist, or is deleted", metadata={"resource": name})


def still_deleted(name: str, purge_time: datetime | None) -> AlreadyExists:
    """A deleted resource has this name until its purge time."""
    until = purge_time.isoformat(timespec="seconds") if purge_time is not None else ""
    return AlreadyExists(
        Reason.STILL_DELETED,
        f"{name} is deleted and keeps its id until {until}; undelete it, or choose another id",
        metadata={"resource": name, "purgeTime": until},
    )


def revision_of_resource_not_found(name: str, number: int, newest: int) -> NotFound:
    """A model or adapter has no revision of this number."""
    return NotFound(
        Reason.REVISION_NOT_FOUND,
        f"{name} has no revision {number}; the newest is {newest}",
        violations=(FieldViolation(field="revision_number", description=f"got {number}; 1 to {newest} is allowed"),),
        metadata={"resource": name, "revisionNumber": str(number), "newestRevisionNumber": str(newest)},
    )


def data_plane_not_found(name: str) -> NotFound:
    """There is no data plane of this resource name."""
    message = f"{name} has never connected, or was removed"
    return NotFound(Reason.DATA_PLANE_NOT_FOUND, message, metadata={"resource": name})


def data_plane_connected(name: str) -> FailedPrecondition:
    message = f"{name} is connected; stop it first, or give force to end its stream"
    return FailedPrecondition(Reason.DATA_PLANE_CONNECTED, message, metadata={"resource": name})


def revision_not_found(revision: int, oldest: int, newest: int) -> NotFound:
    """There is no snapshot of this catalog revision yet, or it is no longer kept."""
    if revision < oldest:
        message = f"catalog revision {revision} is not kept any more; the oldest that is kept is {oldest}"
    else:
        message = f"catalog revision {revision} does not exist; the newest is {newest}"
    return NotFound(
        Reason.REVISION_NOT_FOUND,
        message,
        metadata={"revision": str(revision), "oldestRevision": str(oldest), "newestRevision": str(newest)},
    )


def served_name_taken(served_name: str, holder: str) -> AlreadyExists:
    """`holder` (a resource name) has this served name already."""
    return AlreadyExists(
        Reason.SERVED_NAME_TAKEN,
        f"served name {served_name!r} is taken by {holder}",
        violations=(FieldViolation(field="served_name", description=f"got {served_name!r}: taken by {holder}"),),
        metadata={"servedName": served_name, "holder": holder},
    )
