"""A spec as a tree of values, each with its line in the file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from broadsheet.errors import InvalidSpec
from protocol.validation import FieldViolation, shorten

FILE_BYTES_MAX = 1 << 20
"""A spec has a few kilobytes; a file of a megabyte is not a spec."""

NODES_MAX = 20_000
"""Values of a spec, with aliases counted each time: a small file of nested aliases can expand to
billions."""

DEPTH_MAX = 32
"""Nesting. A spec needs five levels, engine arguments a few more."""

STDIN = Path("-")
"""Standard input, in place of a file."""

_MERGE_TAG = "tag:yaml.org,2002:merge"
"""Of the key `<<`: a mapping, or a list of them, that gives the fields that are not given."""

_EMPTY_TAG = "tag:yaml.org,2002:null"

_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One value of a spec."""

    value: object
    """`dict[str, Node]`, `list[Node]`, or a plain value."""
    line: int | None
    """Line in the file, from 1. None: it is not from a file."""
    text: str = ""
    """A plain value as written: `yes`, where `value` is True."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one value."""

    path: str
    """Path of the field, such as `spec.scaling.max_replicas`."""
    line: int | None
    """Line in the file, from 1. None: it is not from a file."""
    description: str
    """What was given and what is allowed."""


@dataclass(slots=True)
class Budget:
    """Counts nodes, and stops at a tree that is too large or too deep."""

    nodes: int = 0

    def spend(self, depth: int) -> None:
        """Count one node.

        Raises:
            InvalidSpec: A limit is exceeded.
        """
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise InvalidSpec(f"too large: more than {NODES_MAX} values, aliases counted each time")
        if depth > DEPTH_MAX:
            raise InvalidSpec(f"too deep: more than {DEPTH_MAX} levels")


def listed(problems: Iterable[Problem]) -> tuple[FieldViolation, ...]:
    """The problems as violations, by line."""
    return tuple(
        FieldViolation(field=place(problem), description=problem.description)
        for problem in sorted(problems, key=lambda problem: problem.line or 0)
    )


def place(problem: Problem) -> str:
    """Path and line of a problem, as far as they are known."""
    if problem.line is None:
        return problem.path
    return f"{problem.path} (line {problem.line})" if problem.path else f"line {problem.line}"


def documents(path: Path) -> list[yaml.Node]:
    """The YAML documents of a file, without those that are empty.

    Args:
        path: The file, or `STDIN`.

    Raises:
        InvalidSpec: It cannot be read, or is not YAML.
    """
    try:
        content = _read(path)
    except OSError as error:
        raise InvalidSpec(f"cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise InvalidSpec(f"larger than {FILE_BYTES_MAX} bytes; a spec is a short YAML file")
    try:
        composed = list(yaml.compose_all(content.decode("utf-8"), Loader=yaml.SafeLoader))
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"not UTF-8 at byte {error.start}") from error
    except yaml.YAMLError as error:
        raise not_yaml(error) from error
    except RecursionError as error:
        raise InvalidSpec(f"too deep: more than {DEPTH_MAX} levels") from error
    return [document for document in composed if not _is_empty(document)]


def _read(path: Path) -> bytes:
    if path != STDIN:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    if sys.stdin is None:
        raise InvalidSpec("standard input is closed")
    return sys.stdin.buffer.read(FILE_BYTES_MAX + 1)


def _is_empty(document: yaml.Node) -> bool:
    """Whether there is nothing, or only comments, between two `---`."""
    return isinstance(document, yaml.ScalarNode) and document.tag == _EMPTY_TAG and not document.value


def folder_of(path: Path) -> Path:
    """Directory that paths in the file `path` are relative to; of standard input, the working one.

    A link is not followed: in a ConfigMap, files are links to a directory that changes with each
    version.
    """
    return path.absolute().parent


def not_yaml(error: yaml.YAMLError) -> InvalidSpec:
    """The error for a text that is not YAML, with line and column."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return InvalidSpec(f"not YAML: {error}")
    mark = error.problem_mark
    line = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return InvalidSpec(f"not YAML{line}: {error.problem or error.context}")


def from_document(document: yaml.Node, problems: list[Problem]) -> Node:
    """Read a YAML document.

    Args:
        document: As PyYAML composed it.
        problems: Gets what is wrong in single places.

    Raises:
        InvalidSpec: It is too large or too deep, or has an impossible value.
    """
    try:
        return from_yaml_node(document, "", problems, Budget(), 0)
    except yaml.YAMLError as error:
        raise not_yaml(error) from error
    except RecursionError as error:
        raise InvalidSpec(f"too deep: more than {DEPTH_MAX} levels") from error


def from_yaml(path: Path, problems: list[Problem]) -> Node:
    """The one document of a file.

    Raises:
        InvalidSpec: It cannot be read, or is not one YAML document.
    """
    found = documents(path)
    if not found:
        raise InvalidSpec("the file is empty; expected a mapping of fields")
    if len(found) > 1:
        raise InvalidSpec(f"{len(found)} YAML documents in one file (see '---'); expected one")
    return from_document(found[0], problems)


def from_yaml_node(node: yaml.Node, path: str, problems: list[Problem], budget: Budget, depth: int) -> Node:
    """Read one YAML node and those below it; the arguments are those of `from_document`."""
    budget.spend(depth)
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        problems.append(Problem(path=path, line=line, description=f"got the YAML tag {node.tag}; leave it out"))
    if isinstance(node, yaml.MappingNode):
        return Node(value=_fields(node, path, problems, budget, depth), line=line)
    if isinstance(node, yaml.SequenceNode):
        items = [
            from_yaml_node(item, f"{path}[{index}]", problems, budget, depth + 1)
            for index, item in enumerate(node.value)
        ]
        return Node(value=items, line=line)
    loader = yaml.SafeLoader("")
    try:
        return Node(value=loader.construct_object(node), line=line, text=str(node.value))
    except ValueError as error:
        # `2026-13-45` looks like a date to YAML.
        raise yaml.constructor.ConstructorError(None, None, f"{node.value!r}: {error}", node.start_mark) from error
    finally:
        loader.dispose()


def _fields(
    mapping: yaml.MappingNode, path: str, problems: list[Problem], budget: Budget, depth: int
) -> dict[str, Node]:
    """The fields of a mapping, and then those that its merge key gives."""
    fields: dict[str, Node] = {}
    merge: tuple[int, yaml.Node] | None = None
    for key_node, value_node in mapping.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        key_line = key_node.start_mark.line + 1
        if key is None:
            problems.append(Problem(path=path, line=key_line, description="got a key that is not a plain word"))
            continue
        key_path, is_merge = join(path, key), key_node.tag == _MERGE_TAG
        first_line = (merge and merge[0]) if is_merge else (fields[key].line if key in fields else None)
        if first_line is not None:
            description = f"given twice; first on line {first_line}"
            problems.append(Problem(path=key_path, line=key_line, description=description))
            continue
        if is_merge:
            merge = (key_line, value_node)
            continue
        value = from_yaml_node(value_node, key_path, problems, budget, depth + 1)
        # The line of the key: a block value begins on the next line.
        fields[key] = Node(value=value.value, line=key_line, text=value.text)
    if merge is None:
        return fields
    return _merged(merge[1], path, problems, budget, depth + 1) | fields


def _merged(node: yaml.Node, path: str, problems: list[Problem], budget: Budget, depth: int) -> dict[str, Node]:
    """The fields that the value of a merge key gives: of several mappings, the earlier counts."""
    fields: dict[str, Node] = {}
    for mapping in node.value if isinstance(node, yaml.SequenceNode) else (node,):
        if isinstance(mapping, yaml.MappingNode):
            value = from_yaml_node(mapping, path, problems, budget, depth).value
            assert isinstance(value, dict)
            fields = value | fields
        else:
            description = "got no mapping; expected a mapping, or a list of mappings"
            problems.append(Problem(path=join(path, "<<"), line=mapping.start_mark.line + 1, description=description))
    return fields


def from_python(value: object, budget: Budget, depth: int = 0) -> Node:
    """Read mappings, sequences and plain values.

    Raises:
        InvalidSpec: It is too large or too deep, or a key is not text.
    """
    budget.spend(depth)
    if isinstance(value, Mapping):
        fields: dict[str, Node] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidSpec(f"keys are text: got {shorten(key)}")
            fields[key] = from_python(item, budget, depth + 1)
        return Node(value=fields, line=None)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return Node(value=[from_python(item, budget, depth + 1) for item in value], line=None)
    return Node(value=value, line=None)


def join(path: str, name: str) -> str:
    """The path of a field below `path`."""
    return f"{path}.{name}" if path else name


def line_of(root: Node, path: str) -> int | None:
    """Line of the deepest part of `path` that the file has. None: it has no part of it."""
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
