"""Specs as people write them, YAML files and mappings, made into requests. Strict: what is not understood is refused.

A spec has the fields of `RegisterModelRequest`, `RegisterAdapterRequest` or `SetRouteRequest`, in snake_case:

    model_id: smollm2
    spec:
      source: {uri: "file:./SmolLM2-135M-Instruct"}   # relative to this file; also file:///absolute and hf://org/name
      engine: {kind: VLLM, args: {max_model_len: 2048}}
      scaling: {min_replicas: 0, downscale_to_zero_delay: 5m}
    card: {display_name: SmolLM2 135M}
    labels: {team: search}

Durations are `300s`, `5m`, `1h30m`, `250ms` or a number of seconds. Enum names go with or without their prefix. Every
problem of a file is reported at once, each with its line, the field's path, what was got and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from modelplane import sources
from modelplane.errors import InvalidSpec
from modelplane.types import (
    RegisterAdapterRequest,
    RegisterModelRequest,
    SetRouteRequest,
)
from modelplane.validation import FieldViolation, shorten, violations_of

if TYPE_CHECKING:
    from google._upb import _message as _upb
    from google.protobuf.descriptor import Descriptor

    # What generated classes say of themselves, by their stubs: either of two implementations of the same thing.
    _Descriptor = Descriptor | _upb.Descriptor
    _FieldDescriptor = FieldDescriptor | _upb.FieldDescriptor

FILE_BYTES_MAX = 1 << 20
"""A spec is a few kilobytes; a megabyte is some other file."""

NODES_MAX = 20_000
"""Values of a spec, aliases counted each time: a small file of aliases to aliases can mean billions."""

DEPTH_MAX = 32
"""Nesting. A spec needs five levels, engine arguments a few more."""

PairParser = Callable[[str], tuple[str, object]]
"""Makes a name and a value of one command line argument, or raises ValueError."""

_MessageT = TypeVar("_MessageT", bound=Message)

_DURATION = re.compile(r"(?=.)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_INT_BITS = {
    FieldDescriptor.CPPTYPE_INT32: 32,
    FieldDescriptor.CPPTYPE_INT64: 64,
}


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
    """`value` as a message of the type of `into`: copied when it is one, read strictly when it is a mapping.

    Rules that a message of the right shape may still break are left to the control plane.

    Args:
        value: A message, or a mapping as in a YAML file. Relative paths are relative to the working directory.
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
    reader = _Reader(base=Path.cwd())
    node = _from_python(value, _Budget())
    reader.message(node, into, path)
    if reader.problems:
        raise InvalidSpec(f"{path} is not valid", violations=_violations(reader.problems))
    return into


def read_request(fields: Mapping[str, object], into: _MessageT) -> _MessageT:
    """The request with `fields`, checked against every rule that needs no server.

    Args:
        fields: As in a YAML file. Relative paths are relative to the working directory.
        into: An empty request. It is filled and returned.

    Raises:
        InvalidSpec: It is not valid.
    """
    reader = _Reader(base=Path.cwd())
    reader.message(_from_python(fields, _Budget()), into, "")
    violations = _violations(reader.problems) or violations_of(into)
    if violations:
        raise InvalidSpec("not valid; nothing was sent", violations=violations)
    return into


def source_uri(text: str, base: Path) -> str:
    """The URI that `text` means: URIs stay, paths become `file:///…`.

    Args:
        text: `hf://org/name`, `file:///absolute`, `file:relative`, or a path.
        base: What a relative path is relative to.

    Raises:
        ValueError: The path has characters that URIs of files may not hold here, or it is relative, has no `file:` in
            front and leads nowhere: it may be a mistyped `hf://` source.
    """
    if text.startswith("file:") and not text.startswith("file://"):
        return _file_uri(text.removeprefix("file:"), base)
    if _SCHEME.match(text):
        return text
    if not text.startswith(("/", "~")) and not (base / text).exists():
        raise ValueError(
            f"got {shorten(text)}: there is no such path in {base}; "
            "expected hf://org/name, file:///absolute/directory or an existing path"
        )
    return _file_uri(text, base)


def parse_duration(text: str) -> Duration:
    """`300s`, `5m`, `1h30m`, `1.5s`, `250ms`, or a plain number of seconds.

    Raises:
        ValueError: It is none of these.
    """
    match = _DURATION.fullmatch(text)
    try:
        if match is not None and match.group(0):
            hours, minutes, seconds, milliseconds = (Fraction(group or 0) for group in match.groups())
            return _duration(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
        if _SECONDS.fullmatch(text):
            return _duration(Fraction(text))
    except ValueError:
        pass  # more than protobuf can hold
    raise ValueError(f"got {shorten(text)}; expected a duration such as 300s, 5m, 1h30m or 250ms")


def parse_argument(text: str) -> tuple[str, object]:
    """One engine argument as on a command line: `max_model_len=2048`. The value is read as YAML.

    Raises:
        ValueError: There is no `=`, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"got {shorten(text)}; expected NAME=VALUE")
    try:
        return name, yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: got {shorten(value)}, which is not YAML") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A value of a spec, wherever it came from."""

    value: object
    """`dict[str, _Node]`, `list[_Node]`, or a plain value."""
    line: int | None
    """In the file, from 1. None: it came from no file."""
    text: str = ""
    """A plain value as it was written: `yes`, where `value` is True."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    path: str
    line: int | None
    description: str


@dataclass(slots=True)
class _Budget:
    """Nodes made so far. Raises rather than follow a tree that is too large or too deep."""

    nodes: int = 0

    def spend(self, depth: int) -> None:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise InvalidSpec(f"too large: more than {NODES_MAX} values, aliases counted each time")
        if depth > DEPTH_MAX:
            raise InvalidSpec(f"too deep: more than {DEPTH_MAX} levels")


def _load(path: Path, into: _MessageT) -> _MessageT:
    problems: list[_Problem] = []
    try:
        root = _from_yaml(path, problems)
    except InvalidSpec as error:
        raise InvalidSpec(f"{path}: {error.message}", violations=error.violations) from error
    reader = _Reader(base=path.resolve().parent, problems=problems)
    reader.message(root, into, "")
    if not reader.problems:
        # Only of a request that was understood: a field left out for being wrong would look as if it was missing.
        reader.problems += [
            _Problem(path=violation.field, line=_line_of(root, violation.field), description=violation.description)
            for violation in violations_of(into)
        ]
    if reader.problems:
        raise InvalidSpec(f"{path} is not valid; nothing was sent", violations=_violations(reader.problems))
    return into


def _violations(problems: Iterable[_Problem]) -> tuple[FieldViolation, ...]:
    return tuple(
        FieldViolation(field=_place(problem), description=problem.description)
        for problem in sorted(problems, key=lambda problem: problem.line or 0)
    )


def _place(problem: _Problem) -> str:
    if problem.line is None:
        return problem.path
    return f"{problem.path} (line {problem.line})" if problem.path else f"line {problem.line}"


# --- from text and from Python to nodes -------------------------------------------------------------------------------


def _from_yaml(path: Path, problems: list[_Problem]) -> _Node:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidSpec(f"cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise InvalidSpec(f"larger than {FILE_BYTES_MAX} bytes; a spec is a short YAML file")
    try:
        documents = list(yaml.compose_all(content.decode("utf-8"), Loader=yaml.SafeLoader))
        if not documents or documents == [None]:
            raise InvalidSpec("the file is empty; expected a mapping of fields")
        if len(documents) > 1:
            raise InvalidSpec(f"{len(documents)} YAML documents in one file (see '---'); expected one")
        return _from_yaml_node(documents[0], "", problems, _Budget(), 0)
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"not UTF-8 at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        line = (
            f" at line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
            if error.problem_mark
            else ""
        )
        raise InvalidSpec(f"not YAML{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InvalidSpec(f"not YAML: {error}") from error
    except RecursionError as error:
        raise InvalidSpec(f"too deep: more than {DEPTH_MAX} levels") from error


def _from_yaml_node(node: yaml.Node, path: str, problems: list[_Problem], budget: _Budget, depth: int) -> _Node:
    budget.spend(depth)
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        problems.append(_Problem(path=path, line=line, description=f"got the YAML tag {node.tag}; leave it out"))
    if isinstance(node, yaml.MappingNode):
        fields: dict[str, _Node] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            key_line = key_node.start_mark.line + 1
            if key is None:
                problems.append(_Problem(path=path, line=key_line, description="got a key that is not a plain word"))
                continue
            key_path = _join(path, key)
            if key in fields:
                first = fields[key].line
                problems.append(
                    _Problem(path=key_path, line=key_line, description=f"given twice; first on line {first}")
                )
                continue
            value = _from_yaml_node(value_node, key_path, problems, budget, depth + 1)
            # A problem with a block value is best shown at its key, a line above.
            fields[key] = _Node(value=value.value, line=key_line, text=value.text)
        return _Node(value=fields, line=line)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _from_yaml_node(item, f"{path}[{index}]", problems, budget, depth + 1)
            for index, item in enumerate(node.value)
        ]
        return _Node(value=items, line=line)
    loader = yaml.SafeLoader("")
    try:
        return _Node(value=loader.construct_object(node), line=line, text=str(node.value))
    except ValueError as error:
        # `2026-13-45` looks like a date to YAML.
        raise yaml.constructor.ConstructorError(None, None, f"{node.value!r}: {error}", node.start_mark) from error
    finally:
        loader.dispose()


def _from_python(value: object, budget: _Budget, depth: int = 0) -> _Node:
    budget.spend(depth)
    if isinstance(value, Mapping):
        fields: dict[str, _Node] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidSpec(f"keys are text: got {shorten(key)}")
            fields[key] = _from_python(item, budget, depth + 1)
        return _Node(value=fields, line=None)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _Node(value=[_from_python(item, budget, depth + 1) for item in value], line=None)
    return _Node(value=value, line=None)


# --- from nodes to messages -------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Fills messages from nodes and collects what is wrong with them."""

    base: Path
    """What relative paths are relative to."""
    problems: list[_Problem] = field(default_factory=list)

    def message(self, node: _Node, into: Message, path: str) -> None:
        if not isinstance(node.value, dict):
            self._wrong(node, path, f"a mapping with {_fields_of(into.DESCRIPTOR)}")
            return
        for name, item in node.value.items():
            descriptor = into.DESCRIPTOR.fields_by_name.get(name)
            field_path = _join(path, name)
            if descriptor is None:
                self._add(
                    item,
                    field_path,
                    f"unknown field{_nearest(name, into.DESCRIPTOR.fields_by_name)}; "
                    f"allowed: {_fields_of(into.DESCRIPTOR)}",
                )
            elif item.value is None:
                self._add(item, field_path, "got nothing; give it a value, or leave the field out")
            else:
                self._field(item, into, descriptor, field_path)

    def _field(self, node: _Node, into: Message, descriptor: _FieldDescriptor, path: str) -> None:
        type_ = descriptor.message_type
        if type_ is not None and type_.GetOptions().map_entry:
            self._string_map(node, getattr(into, descriptor.name), path)
        elif descriptor.is_repeated:
            if not isinstance(node.value, list):
                self._wrong(node, path, "a list")
                return
            for index, item in enumerate(node.value):
                if type_ is not None:
                    self.message(item, getattr(into, descriptor.name).add(), f"{path}[{index}]")
                    continue
                value = self._scalar(item, descriptor, f"{path}[{index}]")
                if value is not None:
                    getattr(into, descriptor.name).append(value)
        elif type_ is not None:
            target = getattr(into, descriptor.name)
            target.SetInParent()
            if type_ is Struct.DESCRIPTOR:
                self._struct(node, target, path)
            elif type_ is Duration.DESCRIPTOR:
                self._duration(node, target, path)
            else:
                self.message(node, target, path)
        else:
            value = self._scalar(node, descriptor, path)
            if value is not None:
                setattr(into, descriptor.name, value)

    def _scalar(self, node: _Node, descriptor: _FieldDescriptor, path: str) -> object:
        """The value for the field, or None after noting what is wrong with it."""
        value, kind = node.value, descriptor.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._string(node, path, is_uri=descriptor.full_name == "modelplane.v1.Source.uri")
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return value if isinstance(value, bool) else self._wrong(node, path, "true or false")
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self._enum(node, descriptor, path)
        if kind == FieldDescriptor.CPPTYPE_DOUBLE:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return value if is_number else self._wrong(node, path, "a number")
        bits = _INT_BITS[kind]
        if not isinstance(value, int) or isinstance(value, bool):
            return self._wrong(node, path, "a whole number")
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            return self._wrong(node, path, f"a whole number of {bits} bits")
        return value

    def _string(self, node: _Node, path: str, *, is_uri: bool = False) -> str | None:
        if not isinstance(node.value, str):
            hint = "" if isinstance(node.value, dict | list) else "; put it in quotes if it is meant as text"
            self._wrong(node, path, f"text{hint}")
            return None
        if not is_uri:
            return node.value
        try:
            return source_uri(node.value, self.base)
        except ValueError as error:
            self._add(node, path, str(error))
            return None

    def _enum(self, node: _Node, descriptor: _FieldDescriptor, path: str) -> int | None:
        enum = descriptor.enum_type
        assert enum is not None
        prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
        names = [value.name.removeprefix(prefix) for value in enum.values if value.number != 0]
        if isinstance(node.value, str):
            name = node.value.upper().removeprefix(prefix)
            if name in names:
                return enum.values_by_name[prefix + name].number
            nearest = _nearest(name, names)
        else:
            nearest = ""
        self._wrong(node, path, f"one of {', '.join(names)}{nearest}")
        return None

    def _duration(self, node: _Node, into: Duration, path: str) -> None:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            self._wrong(node, path, "a duration such as 300s, 5m, 1h30m or 250ms")
            return
        try:
            into.CopyFrom(parse_duration(value) if isinstance(value, str) else _duration(Fraction(value)))
        except (ValueError, OverflowError):
            self._wrong(node, path, "a duration such as 300s, 5m, 1h30m or 250ms")

    def _string_map(self, node: _Node, into: dict[str, str], path: str) -> None:
        if not isinstance(node.value, dict):
            self._wrong(node, path, "a mapping from text to text")
            return
        for key, item in node.value.items():
            value = self._string(item, f'{path}["{key}"]')
            if value is not None:
                into[key] = value

    def _struct(self, node: _Node, into: Struct, path: str) -> None:
        if not isinstance(node.value, dict):
            self._wrong(node, path, "a mapping")
            return
        into.update({key: self._json(item, _join(path, key)) for key, item in node.value.items()})

    def _json(self, node: _Node, path: str) -> Any:
        if isinstance(node.value, dict):
            return {key: self._json(item, _join(path, key)) for key, item in node.value.items()}
        if isinstance(node.value, list):
            return [self._json(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        if node.value is None or isinstance(node.value, bool | str | float):
            return node.value
        if isinstance(node.value, int):
            # Struct holds doubles; past 2**53 they would silently be another number.
            if abs(node.value) <= 1 << 53:
                return node.value
            return self._wrong(node, path, "a whole number of at most 2**53; put it in quotes if it is meant as text")
        return self._wrong(node, path, "text, a number, true, false, a list or a mapping; put dates in quotes")

    def _wrong(self, node: _Node, path: str, allowed: str) -> object:
        """None, so that a caller can note the problem and return in one line."""
        self._add(node, path, f"got {_got(node)}; expected {allowed}")
        return None

    def _add(self, node: _Node, path: str, description: str) -> None:
        self.problems.append(_Problem(path=path, line=node.line, description=description))


def _got(node: _Node) -> str:
    if isinstance(node.value, dict):
        return "a mapping"
    if isinstance(node.value, list):
        return "a list"
    if node.value is None:
        return "nothing"
    return node.text if node.text and not isinstance(node.value, str) else shorten(node.value)


def _fields_of(descriptor: _Descriptor) -> str:
    return ", ".join(field.name for field in descriptor.fields)


def _nearest(name: str, names: Iterable[str]) -> str:
    matches = get_close_matches(name, list(names), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _file_uri(text: str, base: Path) -> str:
    # Not Path.as_uri, which encodes: the planes take the path literally, and refuse what could be read in two ways.
    uri = f"{sources.FILE_SCHEME}{(base / Path(text).expanduser()).resolve()}"
    try:
        sources.file_path(uri)
    except ValueError as error:
        raise ValueError(f"got {shorten(text)}: {error}") from error
    return uri


def _duration(seconds: Fraction) -> Duration:
    """Raises: ValueError, when protobuf cannot hold it."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1_000_000_000))
    return duration


def _line_of(root: _Node, path: str) -> int | None:
    """Line of the deepest part of `path` that is in the file. None: not even its first part is."""
    node = root
    for part in re.findall(r'\["([^"]*)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        key, index, name = part
        if isinstance(node.value, dict) and (key or name) in node.value:
            node = node.value[key or name]
        elif isinstance(node.value, list) and index and int(index) < len(node.value):
            node = node.value[int(index)]
        else:
            break
    return node.line if node is not root else None
