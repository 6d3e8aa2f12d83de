"""Which engine arguments a model may have. Pure.

Arguments that Broadsheet does not reserve are passed on: only the engine knows whether it accepts
them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from google.protobuf import struct_pb2

from protocol.engine_args import RESERVED, privileged
from protocol.engine_text_args import is_text
from protocol.validation import FieldViolation, shorten

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}(\.[A-Za-z0-9_.-]{1,128})?")
"""A flag without leading dashes. `hf_overrides.rope_scaling` sets a key of a flag with JSON."""


def normalised(args: struct_pb2.Struct) -> struct_pb2.Struct:
    """`args` with `_` for `-` in the name of each flag, so that a flag has a single spelling."""
    result = struct_pb2.Struct()
    for key, value in args.fields.items():
        result.fields[_spelling(key)].CopyFrom(value)
    return result


def _spelling(key: str) -> str:
    flag, dot, rest = key.partition(".")
    return flag.replace("-", "_") + dot + rest


def reserved(args: struct_pb2.Struct) -> tuple[FieldViolation, ...]:
    """A violation for each argument that Broadsheet sets itself."""
    violations = []
    for key in sorted(args.fields):
        flag = _spelling(key).partition(".")[0].lower()
        owner = _reserved_flag(flag.removeprefix("no_"))
        if owner is not None:
            abbreviates = "" if flag in (owner, f"no_{owner}") else f" (short for {owner})"
            violations.append(
                FieldViolation(field=path(key), description=f"not allowed{abbreviates}: {RESERVED[owner]}")
            )
    return tuple(violations)


def _reserved_flag(flag: str) -> str | None:
    # vLLM's parser accepts unambiguous abbreviations, so `por` would set the port.
    if flag in RESERVED:
        return flag
    return next((name for name in RESERVED if name.startswith(flag)), None)


def not_allowed(args: struct_pb2.Struct, allowed: Collection[str]) -> tuple[FieldViolation, ...]:
    """A violation for each privileged argument that publishers may not set."""
    return tuple(
        FieldViolation(
            field=path(found.argument),
            description=f"{found.name} {found.why}; the control plane's operator has not allowed it "
            "(--allowed-engine-args)",
        )
        for found in privileged(args, allowed)
    )


def malformed(args: struct_pb2.Struct) -> tuple[FieldViolation, ...]:
    """A violation for each argument that cannot be passed to any engine."""
    violations = []
    seen: dict[str, str] = {}
    for key in sorted(args.fields):
        if _NAME.fullmatch(key) is None:
            description = f"got {shorten(key)}: an argument is a flag of the engine without dashes in front"
            violations.append(FieldViolation(field=path(key), description=description))
            continue
        first = seen.setdefault(_spelling(key), key)
        if first != key:
            violations.append(FieldViolation(field=path(key), description=f"the same argument as {first!r}"))
        elif not _is_json(args.fields[key]):
            description = "null, NaN and infinity are no values of an argument; leave it out"
            violations.append(FieldViolation(field=path(key), description=description))
        elif (got := _not_text(args.fields[key])) and (is_text(key) or key.endswith("revision")):
            # YAML reads a commit id of digits as a number, and one that begins with 0 as octal.
            description = f"got {got}: it takes text; put it in quotes"
            violations.append(FieldViolation(field=path(key), description=description))
    return tuple(violations)


def _not_text(value: struct_pb2.Value) -> str:
    """The number or truth value that this is, or has in its list. Empty: there is none."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return f"the number {int(number) if number.is_integer() else number}"
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "list_value":
            return next(filter(None, map(_not_text, value.list_value.values)), "")
        case _:
            return ""


def _is_json(value: struct_pb2.Value, *, nested: bool = False) -> bool:
    match value.WhichOneof("kind"):
        case "number_value":
            return math.isfinite(value.number_value)
        case "string_value" | "bool_value":
            return True
        case "struct_value":
            return all(_is_json(item, nested=True) for item in value.struct_value.fields.values())
        case "list_value":
            return all(_is_json(item, nested=True) for item in value.list_value.values)
        case _:
            # Inside a JSON value null is valid: `{"rope_scaling": null}` removes a setting.
            return nested


def path(key: str) -> str:
    """Field path of an argument in a registration request."""
    return f'spec.engine.args["{key}"]'
