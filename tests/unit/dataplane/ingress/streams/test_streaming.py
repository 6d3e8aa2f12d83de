"""Which requests ask for a stream."""

from __future__ import annotations

import pytest

from dataplane.ingress.bodies.form_body import parse_form
from dataplane.ingress.bodies.json_body import parse_json
from dataplane.ingress.streams.streaming import asks_for_events


@pytest.mark.parametrize(
    ("path", "body", "streams"),
    [
        ("/v1/chat/completions", b'{"model":"m","stream":true}', True),
        ("/v1/messages", b'{"stream": true, "model":"m"}', True),
        ("/v1/responses", b'{"model":"m","stream":true}', True),
        ("/v1/chat/completions", b'{"model":"m","stream":false}', False),
        ("/v1/chat/completions", b'{"model":"m","stream":"true"}', False),
        ("/v1/chat/completions", b'{"model":"m"}', False),
        ("/v1/embeddings", b'{"model":"m","stream":true}', False),
    ],
)
def test_a_json_body_streams_on_routes_that_have_streams(path: str, body: bytes, streams: bool) -> None:
    assert asks_for_events(path, parse_json(body)) is streams


@pytest.mark.parametrize(
    ("value", "streams"), [("true", True), ("True", True), ("1", True), ("on", True), ("false", False), ("2", False)]
)
def test_a_form_streams_if_its_field_is_true(value: str, streams: bool) -> None:
    parts = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in (("model", "m"), ("stream", value))
    )
    body = parse_form(f"{parts}--b--\r\n".encode(), b"multipart/form-data; boundary=b")
    assert asks_for_events("/v1/audio/transcriptions", body) is streams
