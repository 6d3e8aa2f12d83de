"""Field masks (AIP-134, AIP-161): which fields an update may change, and the merge. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from google.protobuf import field_mask_pb2
from google.protobuf import message as protobuf_message
from google.protobuf.descriptor import FieldDescriptor

from controlplane import errors
from protocol.validation import FieldViolation, shorten, violations_of

MODEL_PATHS = (
    "served_name",
    "labels",
    "revision.card",
    "revision.spec.scaling",
    "revision.spec.admission",
    "rollout_policy",
)
"""Fields of a Model that an update may change. Of messages it may also change single fields."""

ADAPTER_PATHS = ("served_name", "labels", "revision.card")
"""The same for an Adapter."""

_IDENTITY = frozenset({"name", "etag"})
"""They identify the resource. Setting them is not a change."""

_OUTPUT_ONLY = frozenset(
    {
        "uid",
        "create_time",
        "update_time",
        "catalog_revision",
        "statuses",
        "delete_time",
        "purge_time",
        "rollout",
        "warm_until",
        "revision.name",
        "revision.number",
        "revision.create_time",
        "revision.catalog_revision",
    }
)
"""Fields that the control plane fills in. Callers may send them back; they are ignored."""

M = TypeVar("M", bound=protobuf_message.Message)


def update_paths(given: protobuf_message.Message, mask: Sequence[str], updatable: Sequence[str]) -> Sequence[str]:
    """The paths that an update changes. Without a mask, those of the fields that are set.

    Args:
        given: The resource in the request.
        mask: Paths of the mask in the request. May be empty.
        updatable: The paths that may be changed.

    Raises:
        errors.InvalidArgument: A path names no field, or may not be changed.
    """
    paths = mask or tuple(_set_paths(given, updatable, ""))
    allowed = f"allowed: {', '.join(updatable)}, or fields of those that are messages"
    wrong = [path for path in paths if not _is_updatable(given, path, updatable)]
    if wrong:
        raise errors.InvalidArgument.of_fields(
            [FieldViolation(field="update_mask", description=f"got {_named(path)}; {allowed}") for path in wrong],
            errors.Reason.INVALID_UPDATE_MASK,
        )
    if not paths:
        raise errors.InvalidArgument.of_field(
            "update_mask", f"got none, and no field to change is set; {allowed}", errors.Reason.INVALID_UPDATE_MASK
        )
    return paths


def updated(current: M, given: M, paths: Sequence[str]) -> M:
    """A copy of `current` with the fields at `paths` taken from `given`, unset ones included."""
    source, result = type(given)(), type(current)()
    source.CopyFrom(given)
    result.CopyFrom(current)
    for path in paths:
        # MergeMessage skips fields of absent messages. It must clear them in the result instead.
        _message_at(source, path.split(".")[:-1])
    mask = field_mask_pb2.FieldMask(paths=paths)
    mask.MergeMessage(source, result, replace_message_field=True, replace_repeated_field=True)
    return result


def check_merged(field: str, merged: protobuf_message.Message) -> None:
    """Check a merged resource by the rules in its proto.

    Fields that are valid alone may contradict each other.

    Args:
        field: Path of the resource in the request.
        merged: The resource.

    Raises:
        errors.InvalidArgument: It breaks a rule.
    """
    violations = violations_of(merged)
    if violations:
        raise errors.InvalidArgument.of_fields([_below(field, violation) for violation in violations])


@contextmanager
def violations_below(field: str) -> Iterator[None]:
    """Prefix the paths of violations that the block raises with `field`."""
    try:
        yield
    except errors.InvalidArgument as error:
        below = [_below(field, violation) for violation in error.violations]
        raise errors.InvalidArgument.of_fields(below, error.reason) from None


def _below(field: str, violation: FieldViolation) -> FieldViolation:
    return FieldViolation(field=f"{field}.{violation.field}", description=violation.description)


def _named(path: str) -> str:
    return "'*', which no update takes: registering states the whole" if path == "*" else shorten(path)


def _is_updatable(message: protobuf_message.Message, path: str, updatable: Sequence[str]) -> bool:
    if not any(path == root or path.startswith(f"{root}.") for root in updatable):
        return False
    mask = field_mask_pb2.FieldMask(paths=[path])
    return mask.IsValidForDescriptor(message.DESCRIPTOR)  # type: ignore[arg-type]  # the stubs name one of two kinds


def _set_paths(message: protobuf_message.Message, updatable: Sequence[str], prefix: str) -> Iterator[str]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if path in _IDENTITY or path in _OUTPUT_ONLY:
            continue
        # Only some fields of this message can be changed: find those that are set.
        if path not in updatable and _is_message(field) and any(root.startswith(f"{path}.") for root in updatable):
            yield from _set_paths(value, updatable, f"{path}.")
        else:
            yield path


def _is_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.is_repeated


def _message_at(message: protobuf_message.Message, parts: Sequence[str]) -> None:
    for part in parts:
        message = getattr(message, part)
    if parts:
        message.SetInParent()
