"""Checks messages against the validation rules of the protos (protovalidate). Pure.

The planes and the client check with the same code, so all accept the same messages.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import protovalidate
from google.protobuf import descriptor
from google.protobuf import message as protobuf_message

from protocol.name_advice import Advice, advice_on

_GOT_CHARACTERS_MAX = 80
"""Limit of the value that a violation quotes."""

NUL_FIELDS_MAX = 16
"""Fields with a NUL that an error lists."""


@dataclasses.dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule."""

    field: str
    """Path from the message: `spec.scaling.max_replicas`, `labels["team"]`, `names[1]`. Empty: the
    message itself."""
    description: str
    """What was given and what is allowed."""
    served_name: str = dataclasses.field(default="", compare=False)
    """What was given in place of a resource name, if it may be a served name."""


def violations_of(message: protobuf_message.Message) -> tuple[FieldViolation, ...]:
    """Every rule that `message` breaks; empty when it is valid."""
    return tuple(map(_violation, protovalidate.collect_violations(message)))


def nul_violations(message: protobuf_message.Message) -> tuple[FieldViolation, ...]:
    """The texts in `message` that have a NUL, which PostgreSQL cannot store.

    Protobuf allows it in any string, and no rule in the protos can cover them all.

    Returns:
        NUL_FIELDS_MAX of them at most; empty: there is none.
    """
    if b"\0" not in message.SerializeToString():
        return ()
    return tuple(
        FieldViolation(field=path, description="got text with a NUL character (U+0000): it is not allowed")
        for path in itertools.islice(_paths_with_nul(message, ""), NUL_FIELDS_MAX)
    )


def plain_text(text: str) -> str:
    """`text` from outside, such as an engine, with `?` for what a field does not take.

    That is NUL, and halves of surrogate pairs.
    """
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def _paths_with_nul(message: protobuf_message.Message, prefix: str) -> Iterator[str]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                shown = str(key).replace("\0", "\\0")
                yield from _paths_in(item, f'{path}["{shown}"]', has_nul="\0" in str(key))
        elif field.type not in (descriptor.FieldDescriptor.TYPE_STRING, descriptor.FieldDescriptor.TYPE_MESSAGE):
            continue
        elif isinstance(value, str | protobuf_message.Message):
            yield from _paths_in(value, path)
        else:
            for index, item in enumerate(value):
                yield from _paths_in(item, f"{path}[{index}]")


def _paths_in(value: object, path: str, *, has_nul: bool = False) -> Iterator[str]:
    if has_nul or (isinstance(value, str) and "\0" in value):
        yield path
    elif isinstance(value, protobuf_message.Message):
        yield from _paths_with_nul(value, f"{path}.")


def _path(violation: protovalidate.Violation) -> str:
    path = violation.proto.field
    parts: list[str] = []
    for element in path.elements if path is not None else ():
        parts.append(("." if parts else "") + element.field_name)
        subscript = element.subscript
        if subscript is not None:
            parts.append(f'["{subscript.value}"]' if subscript.field == "string_key" else f"[{subscript.value!r}]")
    return "".join(parts)


def _violation(violation: protovalidate.Violation) -> FieldViolation:
    path, allowed, given = _path(violation), violation.proto.message, violation.field_value
    if violation.proto.rule_id == "required" or isinstance(given, protobuf_message.Message):
        return FieldViolation(field=path, description=allowed)
    name = path.rpartition(".")[2].partition("[")[0]
    advice = advice_on(given, field=name, rule=allowed) if isinstance(given, str) else None
    advice = advice or Advice(allowed=allowed)
    return FieldViolation(
        field=path, description=f"got {shorten(given)}: {advice.allowed}", served_name=advice.served_name
    )


def shorten(value: object) -> str:
    """A value as an error quotes it: at most 80 characters."""
    text = repr(value)
    if len(text) <= _GOT_CHARACTERS_MAX:
        return text
    return f"{text[:_GOT_CHARACTERS_MAX]}… ({len(text)} characters)"
