"""Checks messages against the validation rules of the protos (protovalidate). Pure.

The planes and the client check with the same code, so all accept the same messages.
"""

from __future__ import annotations

from dataclasses import dataclass

import protovalidate
from google.protobuf import message as protobuf_message

_GOT_CHARACTERS_MAX = 80
"""Limit of the value that a violation quotes."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule."""

    field: str
    """Path from the message: `spec.scaling.max_replicas`, `labels["team"]`, `names[1]`. Empty: the
    message itself."""
    description: str
    """What was given and what is allowed."""


def violations_of(message: protobuf_message.Message) -> tuple[FieldViolation, ...]:
    """Every rule that `message` breaks; empty when it is valid."""
    return tuple(
        FieldViolation(field=_path(violation), description=_description(violation))
        for violation in protovalidate.collect_violations(message)
    )


def _path(violation: protovalidate.Violation) -> str:
    path = violation.proto.field
    parts: list[str] = []
    for element in path.elements if path is not None else ():
        parts.append(("." if parts else "") + element.field_name)
        subscript = element.subscript
        if subscript is not None:
            parts.append(f'["{subscript.value}"]' if subscript.field == "string_key" else f"[{subscript.value!r}]")
    return "".join(parts)


def _description(violation: protovalidate.Violation) -> str:
    allowed = violation.proto.message
    if violation.proto.rule_id == "required" or isinstance(violation.field_value, protobuf_message.Message):
        return allowed
    return f"got {shorten(violation.field_value)}: {allowed}"


def shorten(value: object) -> str:
    """A value as an error quotes it: at most 80 characters."""
    text = repr(value)
    if len(text) <= _GOT_CHARACTERS_MAX:
        return text
    return f"{text[:_GOT_CHARACTERS_MAX]}… ({len(text)} characters)"
