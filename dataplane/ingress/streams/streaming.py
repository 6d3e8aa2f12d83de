"""Whether a request asks for a stream of events."""

from __future__ import annotations

import msgspec

from dataplane.ingress.body import Body, FormBody

_JSON_PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/cohere/v2/chat"))


class _Streamed(msgspec.Struct):
    stream: msgspec.Raw = msgspec.Raw()


_streamed = msgspec.json.Decoder(_Streamed)


def asks_for_events(path: str, body: Body) -> bool:
    """Whether the answer will be a stream, if the engine takes the request."""
    if isinstance(body, FormBody):
        return body.is_true(b"stream")
    return path in _JSON_PATHS and bytes(_streamed.decode(body.raw).stream) == b"true"
