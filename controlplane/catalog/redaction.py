"""Resources as JSON for people to read, with secrets redacted. Pure.

Redacted are:

- fields that a proto marks `debug_redact`;
- text and bytes fields whose name ends in a secret word (`client_secret`, `hash`);
- engine arguments and labels with a secret word anywhere in their name;
- in the text of URIs, engine arguments and labels: credentials and query strings of URLs, bearer
  tokens, and values of `SECRET=…`.

When in doubt the value is redacted: the result shows what changed, and is not for restoring it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf import message as protobuf_message
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protocol import field_changes

if TYPE_CHECKING:
    from google._upb import _message as _upb

    # The stubs of generated classes name either of two implementations of a descriptor.
    _FieldDescriptor = FieldDescriptor | _upb.FieldDescriptor

REDACTED = "[redacted]"
REDACTED_CHANGED = "[redacted, changed]"
"""Stands for a secret that differs from the one before."""

_SECRET_ENDINGS = (
    "auth",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "hash",
    "key",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "pwd",
    "secret",
    "secrets",
    "token",
)
"""A word that ends in one of these is secret, so `apikey` is. The plurals `tokens` and `keys` are
left out, because engine arguments such as `max_num_batched_tokens` are no secrets."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_USERINFO = re.compile(r"(?<=://)[^\s/?#]*@")
_URL = re.compile(r"\S+")
_QUERY_START = re.compile(r"[?#]")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
_ASSIGNMENT = re.compile(r"(?<![\w.-])([\w.-]{1,128})(\s{0,8}[=:]\s{0,8})(?!//)(\S+)")
# Each of these takes time linear in the length of the text, which its sender chooses: no character
# can be the start of more than one long match.

_DURATIONS_MAX = 1024
"""Durations whose text is kept. Most are defaults."""

_INTEGER_MAX = 1 << 53
"""JSON numbers are doubles. Larger integers would silently lose digits."""

_TIMESTAMP = timestamp_pb2.Timestamp.DESCRIPTOR.full_name
_DURATION = duration_pb2.Duration.DESCRIPTOR.full_name
_STRUCT = struct_pb2.Struct.DESCRIPTOR.full_name

_SHOWN_AS_THEY_ARE = frozenset(
    {
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_UINT32,
    }
)
_NUMBERS = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
        FieldDescriptor.CPPTYPE_FLOAT,
        FieldDescriptor.CPPTYPE_DOUBLE,
    }
)
"""Not enums, which have a kind of their own."""


def redacted(
    before: protobuf_message.Message | None, after: protobuf_message.Message | None
) -> tuple[dict[str, object] | None, dict[str, object] | None]:
    """Two states of a resource as JSON objects without secrets. None stays None.

    Fields keep their proto names. Bytes become hexadecimal digits and enums their names. Times and
    durations have the form of proto JSON.
    """
    first = _Reader({})
    shown_before = first.shown(before, "") if before is not None else None
    second = _Reader(first.secrets if before is not None else None)
    shown_after = second.shown(after, "") if after is not None else None
    return shown_before, shown_after


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name may hold a secret: `hf_token`, `api-key`, `clientSecret`."""
    return any(_is_secret_word(word) for word in _WORD.findall(name))


def _is_secret_word(word: str) -> bool:
    return word.lower().endswith(_SECRET_ENDINGS)


class _Reader:
    """Reads one state, and records its secrets by path for comparison with a later state."""

    def __init__(self, earlier: Mapping[str, object] | None) -> None:
        """
        Args:
            earlier: Secrets of the state before, by path. None: there is none to compare with.
        """
        self.secrets: dict[str, object] = {}
        self._earlier = earlier

    def shown(self, message: protobuf_message.Message, path: str) -> dict[str, object]:
        if isinstance(message, struct_pb2.Struct):
            return self._mapping(_plain_struct(message), path)
        return self._fields(message, path)

    def _fields(self, message: protobuf_message.Message, path: str) -> dict[str, object]:
        fields: dict[str, object] = {}
        for field in _fields_of(message.DESCRIPTOR):
            if field.has_presence and not message.HasField(field.name):
                continue
            value = getattr(message, field.name)
            if field.is_plain:
                fields[field.name] = value
                continue
            if field.is_number:
                fields[field.name] = _number(value)
                continue
            inner = f"{path}.{field.name}" if path else field.name
            if field.is_map:
                fields[field.name] = self._mapping({key: value[key] for key in sorted(value)}, inner)
            elif field.is_repeated:
                fields[field.name] = [self._field(item, field, f"{inner}[{index}]") for index, item in enumerate(value)]
            else:
                fields[field.name] = self._field(value, field, inner)
        return fields

    def _field(self, value: Any, field: _Field, path: str) -> object:
        if field.is_secret:
            return self._secret(value, path) if value else ""
        if field.message_type == _DURATION:
            return _duration_text(value.seconds, value.nanos)
        if field.message_type == _TIMESTAMP:
            return value.ToJsonString()
        if field.message_type == _STRUCT:
            return self._mapping(_plain_struct(value), path)
        if field.message_type:
            return self._fields(value, path)
        if isinstance(value, str):
            return self._text(value, path) if field.is_uri and value else value
        if isinstance(value, bytes):
            return value.hex()
        return field.enum_names.get(value, value) if field.enum_names else _number(value)

    def _mapping(self, mapping: Mapping[str, object], path: str) -> dict[str, object]:
        return {key: self._named(key, value, field_changes.join(path, key)) for key, value in mapping.items()}

    def _named(self, name: str, value: object, path: str) -> object:
        """A value whose name the user chose: an engine argument, a label, or a part of either."""
        if isinstance(value, protobuf_message.Message):
            return self.shown(value, path)
        if value is None or isinstance(value, bool):
            return value
        if is_secret_name(name):
            return self._secret(value, path)
        if isinstance(value, dict):
            return self._mapping(value, path)
        if isinstance(value, list):
            # Items have the name of their list.
            return [self._named(name, item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, str):
            return self._json_text(value, path) or self._text(value, path)
        return _number(value)

    def _json_text(self, text: str, path: str) -> str:
        """`text` without its secrets if it is a JSON object. Else the empty text."""
        if not text.lstrip().startswith("{"):
            return ""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        shown = self._mapping(content, path)
        return text if shown == content else json.dumps(shown)

    def _text(self, text: str, path: str) -> str:
        shown = _USERINFO.sub(f"{REDACTED}@", text)
        shown = _URL.sub(lambda match: _without_query(match[0]), shown)
        shown = _BEARER.sub(rf"\1 {REDACTED}", shown)
        shown = _ASSIGNMENT.sub(
            lambda match: f"{match[1]}{match[2]}{REDACTED}" if is_secret_name(match[1]) else match[0], shown
        )
        if shown == text:
            return text
        return shown.replace(REDACTED, self._secret(text, path))

    def _secret(self, value: object, path: str) -> str:
        self.secrets[path] = value
        changed = self._earlier is not None and self._earlier.get(path, value) != value
        return REDACTED_CHANGED if changed else REDACTED


@lru_cache(_DURATIONS_MAX)
def _duration_text(seconds: int, nanos: int) -> str:
    return duration_pb2.Duration(seconds=seconds, nanos=nanos).ToJsonString()


def _without_query(word: str) -> str:
    scheme, separator, rest = word.partition("://")
    start = _QUERY_START.search(rest)
    return f"{scheme}{separator}{rest[: start.start()]}?{REDACTED}" if start is not None else word


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """What is needed of a field's descriptor, which is slow to ask."""

    name: str
    has_presence: bool
    is_map: bool
    is_repeated: bool
    is_secret: bool
    message_type: str
    """Full name of the message. Empty: it is none."""
    is_uri: bool
    is_plain: bool
    """It is shown as it is."""
    is_number: bool
    """It is shown as a number of JSON."""
    enum_names: Mapping[object, str]
    """By number. Empty: it is no enum."""


@cache
def _fields_of(descriptor: Descriptor) -> Sequence[_Field]:
    return [_field_of(field) for field in descriptor.fields]


def _field_of(descriptor: _FieldDescriptor) -> _Field:
    message_type, enum_type = descriptor.message_type, descriptor.enum_type
    is_secret = _is_secret_field(descriptor)
    is_uri = descriptor.name.rpartition("_")[2] in ("uri", "url")
    is_single = not descriptor.is_repeated and not is_secret
    return _Field(
        name=descriptor.name,
        has_presence=descriptor.has_presence,
        is_map=message_type is not None and bool(message_type.GetOptions().map_entry),
        is_repeated=descriptor.is_repeated,
        is_secret=is_secret,
        message_type="" if message_type is None else message_type.full_name,
        is_uri=is_uri,
        is_plain=is_single and not is_uri and descriptor.type in _SHOWN_AS_THEY_ARE,
        is_number=is_single and descriptor.cpp_type in _NUMBERS,
        enum_names={} if enum_type is None else {value.number: value.name for value in enum_type.values},
    )


def _is_secret_field(descriptor: _FieldDescriptor) -> bool:
    if descriptor.GetOptions().debug_redact:
        return True
    is_text = descriptor.cpp_type == FieldDescriptor.CPPTYPE_STRING
    return is_text and _is_secret_word(descriptor.name.rpartition("_")[2])


def _plain_struct(message: struct_pb2.Struct) -> dict[str, object]:
    return {key: _plain(message.fields[key]) for key in sorted(message.fields)}


def _plain(value: struct_pb2.Value) -> object:
    # MessageToDict fails on NaN and infinity. An unusual value must not make a change fail.
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain_struct(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def _number(value: object) -> object:
    if type(value) is int and -_INTEGER_MAX <= value <= _INTEGER_MAX:
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= _INTEGER_MAX:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _INTEGER_MAX:
        return str(value)
    return value
