"""Specs as people write them, YAML files and mappings, made into requests. Strict: what is not
understood is refused.

A spec has the fields of `RegisterModelRequest`, `RegisterAdapterRequest` or `SetRouteRequest`, in
snake_case:

    model_id: smollm2
    spec:
      source: {uri: "file:./SmolLM2-135M-Instruct"}   # relative to this file; also file:///absolute
      and hf://org/name
      engine: {kind: VLLM, args: {max_model_len: 2048}}
      scaling: {min_replicas: 0, downscale_to_zero_delay: 5m}
    card: {display_name: SmolLM2 135M}
    labels: {team: search}

Durations are `300s`, `5m`, `1h30m`, `250ms` or a number of seconds. Enum names go with or without
their prefix. Every problem of a file is reported at once, each with its line, the field's path,
what was got and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from broadsheet.errors import InvalidSpec
from broadsheet.specs.nodes import (
    DEPTH_MAX,
    FILE_BYTES_MAX,
    NODES_MAX,
    Budget,
    Problem,
    from_python,
    from_yaml,
    line_of,
    listed,
)
from broadsheet.specs.reader import Reader
from broadsheet.specs.values import PairParser, parse_argument, parse_duration, source_uri
from broadsheet.types import (
    RegisterAdapterRequest,
    RegisterModelRequest,
    SetRouteRequest,
)
from protocol.validation import violations_of

__all__ = [
    "DEPTH_MAX",
    "FILE_BYTES_MAX",
    "NODES_MAX",
    "PairParser",
    "load_adapter_request",
    "load_model_request",
    "load_route_request",
    "parse_argument",
    "parse_duration",
    "read_request",
    "source_uri",
    "to_message",
]

_MessageT = TypeVar("_MessageT", bound=Message)


def load_model_request(path: Path) -> RegisterModelRequest:
    """The request in the YAML file `path`.

    Raises:
        InvalidSpec: The file cannot be read, or is not a valid request.
    """
    return _load(path, RegisterModelRequest())


def load_adapter_request(path: Path) -> RegisterAdapterRequest:
    """The request in the YAML file `path`.

    Raises:
        InvalidSpec: The file cannot be read, or is not a valid request.
    """
    return _load(path, RegisterAdapterRequest())


def load_route_request(path: Path) -> SetRouteRequest:
    """The request in the YAML file `path`.

    Raises:
        InvalidSpec: The file cannot be read, or is not a valid request.
    """
    return _load(path, SetRouteRequest())


def to_message(value: Message | Mapping[str, object], into: _MessageT, path: str) -> _MessageT:
    """`value` as a message of the type of `into`: copied when it is one, read strictly when it is a
    mapping.

    Rules that a message of the right shape may still break are left to the control plane.

    Args:
        value: A message, or a mapping as in a YAML file. Relative paths are relative to the working
        directory.
        into: An empty message. It is filled and returned.
        path: Path of the field, for errors: `spec`.

    Raises:
        InvalidSpec: Unknown fields, wrong types.
    """
    if isinstance(value, Message):
        if value.DESCRIPTOR.full_name != into.DESCRIPTOR.full_name:
            raise InvalidSpec(f"{path}: got a {value.DESCRIPTOR.name}, expected {into.DESCRIPTOR.name}")
        into.MergeFromString(value.SerializeToString())
        return into
    reader = Reader(base=Path.cwd())
    node = from_python(value, Budget())
    reader.message(node, into, path)
    if reader.problems:
        raise InvalidSpec(f"{path} is not valid", violations=listed(reader.problems))
    return into


def read_request(fields: Mapping[str, object], into: _MessageT) -> _MessageT:
    """The request with `fields`, checked against every rule that needs no server.

    Args:
        fields: As in a YAML file. Relative paths are relative to the working directory.
        into: An empty request. It is filled and returned.

    Raises:
        InvalidSpec: It is not valid.
    """
    reader = Reader(base=Path.cwd())
    reader.message(from_python(fields, Budget()), into, "")
    violations = listed(reader.problems) or violations_of(into)
    if violations:
        raise InvalidSpec("not valid; nothing was sent", violations=violations)
    return into


def _load(path: Path, into: _MessageT) -> _MessageT:
    problems: list[Problem] = []
    try:
        root = from_yaml(path, problems)
    except InvalidSpec as error:
        raise InvalidSpec(f"{path}: {error.message}", violations=error.violations) from error
    reader = Reader(base=path.resolve().parent, problems=problems)
    reader.message(root, into, "")
    if not reader.problems:
        # Only of a request that was understood: a field left out for being wrong would look as if
        # it was missing.
        reader.problems += [
            Problem(path=violation.field, line=line_of(root, violation.field), description=violation.description)
            for violation in violations_of(into)
        ]
    if reader.problems:
        raise InvalidSpec(f"{path} is not valid; nothing was sent", violations=listed(reader.problems))
    return into
