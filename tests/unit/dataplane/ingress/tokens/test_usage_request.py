"""The engine is asked for usage where its caller did not ask, and nowhere else."""

from __future__ import annotations

import json

import pytest

from dataplane.ingress.bodies.form_body import parse_form
from dataplane.ingress.bodies.json_body import parse_json
from dataplane.ingress.tokens.usage_request import Unasked, ask_in_form, ask_in_json
from tests.unit.dataplane.ingress.bodies.sent import sent

CHAT = "/v1/chat/completions"
BOTH = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize(
    ("options", "unasked"),
    [
        (b"", Unasked.ALL),
        (b',"stream_options":null', Unasked.ALL),
        (b',"stream_options":{}', Unasked.ALL),
        (b',"stream_options":{"include_usage":false}', Unasked.ALL),
        (b',"stream_options":{"continuous_usage_stats":true}', Unasked.ALL),
        (b',"stream_options":{"include_usage":true}', Unasked.EACH_EVENT),
    ],
)
def test_a_stream_is_asked_for_usage_in_each_event(path: str, options: bytes, unasked: Unasked) -> None:
    body = b'{"model":"m","a":1.50,"stream":true%b}' % options
    edit, what = ask_in_json(path, parse_json(body))
    assert what is unasked
    assert edit is not None
    asking = sent(body, edit)
    assert b'"a":1.50' in asking
    assert json.loads(asking) == json.loads(body) | {"stream_options": BOTH}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b'{"model":"m"}'),
        (CHAT, b'{"model":"m","stream":false}'),
        (CHAT, b'{"model":"m","stream":"yes"}'),
        (CHAT, b'{"model":"m","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'),
        (CHAT, b'{"model":"m","stream":true,"stream_options":{"include_usage":"no"}}'),
        (CHAT, b'{"model":"m","stream":true,"stream_options":[1]}'),
        ("/v1/messages", b'{"model":"m","stream":true}'),
        ("/v1/responses", b'{"model":"m","stream":true}'),
    ],
)
def test_other_bodies_stay_as_they_are(path: str, body: bytes) -> None:
    assert ask_in_json(path, parse_json(body)) == (None, Unasked.NOTHING)


def form(*fields: tuple[str, str]) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    sound = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n--bb sound\r\n'
    return ("".join(parts) + sound + "--b--\r\n").encode()


def test_a_form_that_streams_is_asked_for_usage_in_each_event() -> None:
    parsed = parse_form(form(("model", "m"), ("stream", "true")), b"multipart/form-data; boundary=b")
    edit, unasked = ask_in_form(parsed)
    assert edit is not None
    asking = sent(parsed.raw, edit)
    again = parse_form(asking, b"multipart/form-data; boundary=b")
    assert unasked is Unasked.ALL
    assert again.fields == {
        **parsed.fields,
        b"stream_include_usage": b"true",
        b"stream_continuous_usage_stats": b"true",
    }
    assert asking.endswith(parsed.raw)


@pytest.mark.parametrize("name", ["stream_include_usage", "stream_continuous_usage_stats"])
def test_a_form_that_says_what_usage_it_wants_stays_as_it_is(name: str) -> None:
    parsed = parse_form(form(("model", "m"), ("stream", "true"), (name, "false")), b"multipart/form-data; boundary=b")
    assert ask_in_form(parsed) == (None, Unasked.NOTHING)
