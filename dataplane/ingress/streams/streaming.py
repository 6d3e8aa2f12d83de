"""Whether a request asks for a stream of events."""

from __future__ import annotations

from dataplane.ingress.bodies.body import Body
from dataplane.ingress.bodies.form_body import FormBody

_JSON_PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/cohere/v2/chat"))


def asks_for_events(path: str, body: Body) -> bool:
    """Whether the answer will be a stream, if the engine takes the request."""
    return body.streams and (path in _JSON_PATHS or isinstance(body, FormBody))
