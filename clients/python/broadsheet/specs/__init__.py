"""Specs as people write them, in YAML files and mappings, made into requests.

Owns the reading of YAML, with line numbers and limits. May import the messages, `broadsheet.errors`
and `protocol`. Reading is strict: an unknown field or a wrong type is an error.

A spec has the fields of `RegisterModelRequest`, `RegisterAdapterRequest` or `SetRouteRequest`, in
snake_case:

    model_id: smollm2
    spec:
      source: {uri: "file:./SmolLM2-135M-Instruct"}   # relative to this file
      engine: {kind: VLLM, args: {max_model_len: 2048}}
      scaling: {min_replicas: 0, downscale_to_zero_delay: 5m}
    card: {display_name: SmolLM2 135M}
    labels: {team: search}

A source may also be `file:///absolute` or `hf://org/name`. Durations are `300s`, `5m`, `1h30m`,
`250ms` or a number of seconds. Enum values may omit their prefix. All problems of a file are
reported together, each with its line, the path of the field, what was given and what is allowed.
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
    STDIN,
    Budget,
    Problem,
    folder_of,
    from_python,
    from_yaml,
    line_of,
    listed,
)
from broadsheet.specs.reader import Reader
from broadsheet.specs.values import PairParser, parse_argument, parse_duration, source_uri
from broadsheet.types import (
    FleetPolicy,
    RegisterAdapterRequest,
    RegisterModelRequest,
    SetRouteRequest,
)
from protocol.validation import violations_of

__all__ = [
    "DEPTH_MAX",
    "FILE_BYTES_MAX",
    "NODES_MAX",
    "STDIN",
    "PairParser",
    "load_adapter_request",
    "load_fleet_policy",
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
    """The request in the YAML file `path`, or in standard input, if `path` is `STDIN`.

    Raises:
        InvalidSpec: The file cannot be read, or is not a valid request.
    """
    return _load(path, RegisterModelRequest())


def load_adapter_request(path: Path) -> RegisterAdapterRequest:
    """The request in the YAML file `path`, or in standard input, if `path` is `STDIN`.

    Raises:
        InvalidSpec: The file cannot be read, or is not a valid request.
    """
    return _load(path, RegisterAdapterRequest())


def load_route_request(path: Path) -> SetRouteRequest:
    """The request in the YAML file `path`, or in standard input, if `path` is `STDIN`.

    Raises:
        InvalidSpec: The file cannot be read, or is not a valid request.
    """
    return _load(path, SetRouteRequest())


def load_fleet_policy(path: Path) -> FleetPolicy:
    """The policy in the YAML file `path`, or in standard input, if `path` is `STDIN`.

    Raises:
        InvalidSpec: The file cannot be read, or is not a valid policy.
    """
    return _load(path, FleetPolicy())


def to_message(value: Message | Mapping[str, object], into: _MessageT, path: str) -> _MessageT:
    """Make a message from a message of the same type, or strictly from a mapping.

    The validation rules of the API are left to the control plane.

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
    """Make a request and check it against every rule that needs no server.

    Args:
        fields: As in a YAML file. Relative paths are relative to the working directory.
        into: An empty request. It is filled and returned.

    Raises:
        InvalidSpec: It is not valid.
    """
    reader = Reader(base=Path.cwd())
    reader.message(from_python(fields, Budget()), into, "")
    violations = listed(reader.problems) or violations_of(into)
    # A served name in place of a resource name is left to the control plane: it knows whose it is.
    if any(not violation.served_name for violation in violations):
        raise InvalidSpec("not valid; nothing was sent", violations=violations)
    return into


def _load(path: Path, into: _MessageT) -> _MessageT:
    problems: list[Problem] = []
    try:
        root = from_yaml(path, problems)
    except InvalidSpec as error:
        raise InvalidSpec(f"{path}: {error.message}", violations=error.violations) from error
    reader = Reader(base=folder_of(path), problems=problems)
    reader.message(root, into, "")
    if not reader.problems:
        # Only if all was read: a field that was skipped as wrong would be reported as missing.
        reader.problems += [
            Problem(path=violation.field, line=line_of(root, violation.field), description=violation.description)
            for violation in violations_of(into)
        ]
    if reader.problems:
        raise InvalidSpec(f"{path} is not valid; nothing was sent", violations=listed(reader.problems))
    return into
