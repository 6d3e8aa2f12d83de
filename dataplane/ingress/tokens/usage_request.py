"""Asks an engine to report usage in a stream whose caller did not ask for it. Pure.

vLLM takes `stream_options` for chats and completions, and two fields of their own for
transcriptions and translations. Its other streams always report usage.
"""

from __future__ import annotations

import enum

import msgspec

from dataplane.ingress.bodies.form_body import FormBody
from dataplane.ingress.bodies.json_body import JsonBody
from dataplane.ingress.bodies.splice import Edit

_JSON_PATHS = frozenset(("/v1/chat/completions", "/v1/completions"))
_FORM_FIELDS = (b"stream_include_usage", b"stream_continuous_usage_stats")


class Unasked(enum.Enum):
    """What the answer has that its caller did not ask for."""

    NOTHING = enum.auto()
    EACH_EVENT = enum.auto()
    """Usage in each event but the last. The caller asked for that in the last one."""
    ALL = enum.auto()
    """Usage in each event, and a last event that has nothing else."""


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TRUE_JSON = msgspec.Raw(b"true")


def ask_in_json(path: str, body: JsonBody) -> tuple[Edit | None, Unasked]:
    """The edit that asks for usage in every event, and what is unasked for then.

    Whatever the engine would refuse, or may read otherwise, stays as it is.

    Args:
        path: Of the route.
        body: The request's.
    """
    if path not in _JSON_PATHS or not body.streams:
        return None, Unasked.NOTHING
    written = body.stream_options
    try:
        options = _fields.decode(written) if written not in (b"", b"null") else {}
    except msgspec.DecodeError:
        return None, Unasked.NOTHING
    wants_last, wants_each = (bytes(options.get(name, b"null")) for name in ("include_usage", "continuous_usage_stats"))
    if wants_last not in (b"true", b"false", b"null") or wants_each not in (b"true", b"false", b"null"):
        return None, Unasked.NOTHING
    if wants_last == wants_each == b"true":
        return None, Unasked.NOTHING
    options |= {"include_usage": _TRUE_JSON, "continuous_usage_stats": _TRUE_JSON}
    edit = body.with_stream_options(msgspec.json.encode(options))
    return edit, Unasked.EACH_EVENT if wants_last == b"true" else Unasked.ALL


def ask_in_form(body: FormBody) -> tuple[Edit | None, Unasked]:
    """The edit that asks for usage in every event, and what is unasked for then."""
    if not body.streams or any(name in body.fields for name in _FORM_FIELDS):
        return None, Unasked.NOTHING
    delimiter = b"--" + body.boundary
    start = body.raw.find(delimiter)
    parts = b"".join(
        b'%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\ntrue\r\n' % (delimiter, name) for name in _FORM_FIELDS
    )
    return Edit(start, start, parts), Unasked.ALL
