"""The difference of a resource between two snapshots, for people to read. Pure."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory, struct_pb2
from google.protobuf import message as protobuf_message

from broadsheet.v1 import change_pb2
from controlplane.catalog import domain, redaction
from protocol import field_changes


def resource_change(before: domain.Entry | None, after: domain.Entry | None) -> change_pb2.ResourceChange:
    """The change from one entry to another of the same name, without secrets.

    Args:
        before: None: the resource did not exist.
        after: None: the resource is gone. Not both are None.
    """
    entry = after or before
    assert entry is not None, "at least one of the two exists"
    shown_before, shown_after = redaction.redacted(_decoded(before), _decoded(after))
    change = change_pb2.ResourceChange(name=entry.name, type=entry.type, kind=kind(before, after))
    if shown_before is not None:
        _put(shown_before, change.before)
    if shown_after is not None:
        _put(shown_after, change.after)
    if shown_before is not None and shown_after is not None:
        change.fields.extend(
            change_pb2.FieldChange(path=field.path, before=_value(field.before), after=_value(field.after))
            for field in field_changes.field_changes(shown_before, shown_after)
        )
    return change


def kind(before: object | None, after: object | None) -> change_pb2.ResourceChange.Kind.ValueType:
    """Whether a resource was added, removed or changed. None: it does not exist then."""
    if before is None:
        return change_pb2.ResourceChange.KIND_ADDED
    return change_pb2.ResourceChange.KIND_REMOVED if after is None else change_pb2.ResourceChange.KIND_CHANGED


def _decoded(entry: domain.Entry | None) -> protobuf_message.Message | None:
    if entry is None:
        return None
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(entry.type)
        return message_factory.GetMessageClass(descriptor).FromString(entry.blob)
    except (KeyError, protobuf_message.DecodeError):
        # Written by a newer release, which knows more types than this one.
        return struct_pb2.Struct(fields={"digest": struct_pb2.Value(string_value=entry.digest.hex())})


def _put(shown: dict[str, Any], into: struct_pb2.Struct) -> None:
    # Marks it as present, also without fields.
    into.Clear()
    fields = into.fields
    for key, value in shown.items():
        # Most values are of these kinds. The library takes longer to find out which.
        kind = type(value)
        if kind is str:
            fields[key].string_value = value
        elif kind is bool:
            fields[key].bool_value = value
        elif kind is int or kind is float:
            fields[key].number_value = value
        elif kind is dict:
            _put(value, fields[key].struct_value)
        else:
            into[key] = value


def _value(value: Any) -> struct_pb2.Value | None:
    if value is field_changes.ABSENT:
        return None
    return json_format.ParseDict(value, struct_pb2.Value())
