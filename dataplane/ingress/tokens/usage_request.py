"""Asks an engine to report usage in a stream whose caller did not ask for it. Pure.

vLLM takes `stream_options` for chats and completions, and two fields of their own for
transcriptions and translations. Its other streams always report usage.
"""

from __future__ import annotations

import enum
from collections.abc import Container

import msgspec

_JSON_PATHS = frozenset(("/v1/chat/completions", "/v1/completions"))
_FORM_FIELDS = (b"stream_include_usage", b"stream_continuous_usage_stats")


class Unasked(enum.Enum):
    """What the answer has that its caller did not ask for."""

    NOTHING = enum.auto()
    EACH_EVENT = enum.auto()
    """Usage in each event but the last. The caller asked for that in the last one."""
    ALL = enum.auto()
    """Usage in each event, and a last event that has nothing else."""


class _Options(msgspec.Struct):
    stream: msgspec.Raw = msgspec.Raw()
    stream_options: msgspec.Raw = msgspec.Raw()


_options = msgspec.json.Decoder(_Options)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TRUE_JSON = msgspec.Raw(b"true")


def ask_in_json(path: str, body: bytes) -> tuple[bytes, Unasked]:
    """The body that asks for usage in every event, and what is unasked for then.

    Whatever the engine would refuse, or may read otherwise, stays as it is.

    Args:
        path: Of the route.
        body: A JSON object.
    """
    if path not in _JSON_PATHS:
        return body, Unasked.NOTHING
    asked = _options.decode(body)
    if bytes(asked.stream) != b"true":
        return body, Unasked.NOTHING
    written = bytes(asked.stream_options)
    try:
        options = _fields.decode(written) if written not in (b"", b"null") else {}
    except msgspec.DecodeError:
        return body, Unasked.NOTHING
    wants_last, wants_each = (bytes(options.get(name, b"null")) for name in ("include_usage", "continuous_usage_stats"))
    if wants_last not in (b"true", b"false", b"null") or wants_each not in (b"true", b"false", b"null"):
        return body, Unasked.NOTHING
    if wants_last == wants_each == b"true":
        return body, Unasked.NOTHING
    options |= {"include_usage": _TRUE_JSON, "continuous_usage_stats": _TRUE_JSON}
    fields = _fields.decode(body)
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return msgspec.json.encode(fields), Unasked.EACH_EVENT if wants_last == b"true" else Unasked.ALL


def ask_in_form(body: bytes, boundary: bytes, names: Container[bytes]) -> tuple[bytes, Unasked]:
    """The form that asks for usage in every event, and what is unasked for then.

    Args:
        body: A form that asks for a stream.
        boundary: Between its parts.
        names: Of its short fields.
    """
    if any(name in names for name in _FORM_FIELDS):
        return body, Unasked.NOTHING
    delimiter = b"--" + boundary
    start = body.find(delimiter)
    parts = b"".join(
        b'%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\ntrue\r\n' % (delimiter, name) for name in _FORM_FIELDS
    )
    return body[:start] + parts + body[start:], Unasked.ALL
