"""Fills messages from nodes, strictly: an unknown field or a wrong type is a problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from broadsheet.specs.nodes import Node, Problem, join
from broadsheet.specs.values import duration_of, is_decimal, is_number, parse_duration, read_as, source_uri, whole_text
from protocol.engine_text_args import is_text
from protocol.validation import shorten

if TYPE_CHECKING:
    from google._upb import _message as _upb
    from google.protobuf.descriptor import Descriptor

    # By their stubs, generated classes have descriptors of either implementation.
    _Descriptor = Descriptor | _upb.Descriptor
    _FieldDescriptor = FieldDescriptor | _upb.FieldDescriptor

_INT_BITS = {
    FieldDescriptor.CPPTYPE_INT32: 32,
    FieldDescriptor.CPPTYPE_INT64: 64,
}


@dataclass(slots=True, kw_only=True)
class Reader:
    """Fills messages from nodes, and collects the problems."""

    base: Path
    """Directory that relative paths are relative to."""
    problems: list[Problem] = field(default_factory=list)

    def message(self, node: Node, into: Message, path: str) -> None:
        """Fill a message.

        Args:
            node: A mapping of fields.
            into: An empty message.
            path: Path of the message, for problems. Empty: the root.
        """
        if not isinstance(node.value, dict):
            self._wrong(node, path, f"a mapping with {_fields_of(into.DESCRIPTOR)}")
            return
        for name, item in node.value.items():
            descriptor = into.DESCRIPTOR.fields_by_name.get(name)
            field_path = join(path, name)
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

    def _field(self, node: Node, into: Message, descriptor: _FieldDescriptor, path: str) -> None:
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

    def _scalar(self, node: Node, descriptor: _FieldDescriptor, path: str) -> object:
        """The value for a field. None: it is wrong, and the problem is noted."""
        value, kind = node.value, descriptor.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._string(node, path, is_uri=descriptor.full_name == "broadsheet.v1.Source.uri")
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return value if isinstance(value, bool) else self._wrong(node, path, "true or false")
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self._enum(node, descriptor, path)
        if not self._is_decimal(node, path):
            return None
        if kind == FieldDescriptor.CPPTYPE_DOUBLE:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return value if is_number else self._wrong(node, path, "a number")
        bits = _INT_BITS[kind]
        if not isinstance(value, int) or isinstance(value, bool):
            return self._wrong(node, path, "a whole number")
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            return self._wrong(node, path, f"a whole number of {bits} bits")
        return value

    def _string(self, node: Node, path: str, *, is_uri: bool = False) -> str | None:
        if not isinstance(node.value, str):
            hint = "" if isinstance(node.value, dict | list) else "; put it in quotes if it is meant as text"
            self._wrong(node, path, f"text{hint}")
            return None
        text = self._whole(node.value, node, path)
        if text is None or not is_uri:
            return text
        try:
            return source_uri(text, self.base)
        except ValueError as error:
            self._add(node, path, str(error))
            return None

    def _enum(self, node: Node, descriptor: _FieldDescriptor, path: str) -> int | None:
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

    def _duration(self, node: Node, into: Duration, path: str) -> None:
        value = node.value
        if not self._is_decimal(node, path):
            return
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            self._wrong(node, path, "a duration such as 300s, 5m, 1h30m or 250ms")
            return
        try:
            into.CopyFrom(parse_duration(value) if isinstance(value, str) else duration_of(Fraction(value)))
        except (ValueError, OverflowError):
            self._wrong(node, path, "a duration such as 300s, 5m, 1h30m or 250ms")

    def _string_map(self, node: Node, into: dict[str, str], path: str) -> None:
        if not isinstance(node.value, dict):
            self._wrong(node, path, "a mapping from text to text")
            return
        for key, item in self._entries(node.value, path):
            value = self._string(item, f'{path}["{key}"]')
            if value is not None:
                into[key] = value

    def _struct(self, node: Node, into: Struct, path: str) -> None:
        if not isinstance(node.value, dict):
            self._wrong(node, path, "a mapping")
            return
        for key, item in self._entries(node.value, path):
            into.update({key: self._json(item, join(path, key), takes_text=is_text(key))})

    def _json(self, node: Node, path: str, *, takes_text: bool = False) -> Any:
        """A value of an engine argument; `takes_text`: it takes text, or a list of text."""
        if isinstance(node.value, dict):
            return {key: self._json(item, join(path, key)) for key, item in self._entries(node.value, path)}
        if isinstance(node.value, list):
            return [
                self._json(item, f"{path}[{index}]", takes_text=takes_text) for index, item in enumerate(node.value)
            ]
        if takes_text and isinstance(node.value, bool | int | float | date):
            return self._string(node, path)
        if isinstance(node.value, str):
            return self._whole(node.value, node, path)
        if not self._is_decimal(node, path):
            return None
        if node.value is None or isinstance(node.value, bool | float):
            return node.value
        if isinstance(node.value, int):
            # Struct holds doubles, which are not exact above 2**53.
            if abs(node.value) <= 1 << 53:
                return node.value
            return self._wrong(node, path, "a whole number of at most 2**53; put it in quotes if it is meant as text")
        return self._wrong(node, path, "text, a number, true, false, a list or a mapping; put dates in quotes")

    def _is_decimal(self, node: Node, path: str) -> bool:
        """Whether a number is written as decimals. If not, the problem is noted.

        YAML 1.1 also has octal (`0123`), `0x10`, `1_000` and base 60 (`1:30`).
        """
        if not node.text or not is_number(node.value) or is_decimal(node.text):
            return True
        self._wrong(node, path, f"a decimal number{read_as(node.value)}, or text in quotes")
        return False

    def _entries(self, mapping: Mapping[str, Node], path: str) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping whose keys are text of the user."""
        for key, item in mapping.items():
            whole = self._whole(key, item, path, what="the key ")
            if whole is not None:
                yield whole, item

    def _whole(self, text: str, node: Node, path: str, *, what: str = "") -> str | None:
        """Text as a message can hold it. None: no message can, and the problem is noted."""
        try:
            return whole_text(text)
        except ValueError as error:
            self._add(node, path, f"got {what}{error}")
            return None

    def _wrong(self, node: Node, path: str, allowed: str) -> object:
        """Note a problem. Returns None, so that a caller can return it as its value."""
        self._add(node, path, f"got {_got(node)}; expected {allowed}")
        return None

    def _add(self, node: Node, path: str, description: str) -> None:
        self.problems.append(Problem(path=path, line=node.line, description=description))


def _got(node: Node) -> str:
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
