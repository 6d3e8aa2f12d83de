from __future__ import annotations

import asyncio
import json
import time
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.ingress.body import ClientGone, parse_form, parse_json, read_body
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import Receive


def test_the_model_is_found_anywhere_in_the_body() -> None:
    assert parse_json(b'{"messages":[{"model":"no"}],"model":"yes"}').model == "yes"
    assert parse_json(b' {"mod\\u0065l" : "a\\/b:c"} ').model == "a/b:c"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", openai_errors.InvalidJson),
        (b"{", openai_errors.InvalidJson),
        (b"hello", openai_errors.InvalidJson),
        (b'{"model":"x"} x', openai_errors.InvalidJson),
        (b'{"model":"x","a":NaN}', openai_errors.InvalidJson),
        (b'{"model":"x","a":01}', openai_errors.InvalidJson),
        (b'{"model":"\xff"}', openai_errors.InvalidJson),
        (b'{"model":"\\ud800"}', openai_errors.InvalidJson),
        (b'{"model":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", openai_errors.InvalidJson),
        ('{"model":"x"}'.encode("utf-16"), openai_errors.InvalidJson),
        ('{"model":"x"}'.encode("utf-32-le"), openai_errors.InvalidJson),
        (b"[]", openai_errors.BodyNotObject),
        (b'"model"', openai_errors.BodyNotObject),
        (b"null", openai_errors.BodyNotObject),
        (b"{}", openai_errors.ModelMissing),
        (b'{"Model":"x"}', openai_errors.ModelMissing),
        (b'{"model":null}', openai_errors.ModelNotString),
        (b'{"model":7}', openai_errors.ModelNotString),
        (b'{"model":["x"]}', openai_errors.ModelNotString),
        (b'{"model":{"name":"x"}}', openai_errors.ModelNotString),
    ],
)
def test_an_invalid_body_is_refused_with_the_fault(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"model":"m","user":"\xff"}', "it is not UTF-8: invalid start byte (byte 21)"),
        (b'{"model":"m","prompt":"\xed\xa0\x80"}', "it is not UTF-8: invalid continuation byte (byte 23)"),
        (b'{"model":"m","\xff":1}', "it is not UTF-8: invalid start byte (byte 14)"),
        (b'{"model":"m","a":{"\xff":["\xff"]}}', "it is not UTF-8: invalid start byte (byte 19)"),
        (b'{"model":"m","prompt":"\xc3', "it is not UTF-8: unexpected end of data (byte 23)"),
        (b'\xef\xbb\xbf{"model":"m"}', "it begins with a byte order mark (BOM); send UTF-8 without it"),
        *(
            (text.encode(encoding), f"it is in UTF-{name}; send it in UTF-8")
            for text in ('{"model":"m"}', '\ufeff{"model":"m"}')
            for encoding, name in (("utf-16-le", 16), ("utf-16-be", 16), ("utf-32-le", 32), ("utf-32-be", 32))
        ),
    ],
)
def test_a_body_in_another_encoding_is_refused_with_what_is_the_matter(body: bytes, words: str) -> None:
    with pytest.raises(openai_errors.InvalidJson) as caught:
        parse_json(body)
    assert str(caught.value) == f"The request body is not valid JSON: {words}."


def test_a_long_body_is_checked_to_its_last_byte() -> None:
    text = '{"model":"m","a":"' + "é€😀" * 30_000
    assert parse_json(f'{text}"}}'.encode()).model == "m"
    for before in (0, 1, 2, 3):
        body = text.encode() + b"x" * before
        with pytest.raises(openai_errors.InvalidJson, match=rf"\(byte {len(body)}\)"):
            parse_json(body + b'\xff"}')


@given(
    st.binary(max_size=8),
    st.sampled_from([b'{"model":"m","user":"%"}', b'{"model":"m","%":1}', b'{"model":"m","a":[%]}']),
)
def test_a_body_is_refused_as_a_whole_or_can_be_used(data: bytes, template: bytes) -> None:
    try:
        body = parse_json(template.replace(b"%", data))
    except openai_errors.IngressError:
        return
    body.user()
    assert parse_json(body.asking_for("other@1")).model == "other@1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
).map(json.dumps)
keys = st.sampled_from(["model", "mod\\u0065l", "\\u006dodel", "Model", "prompt", "a"])


@given(st.lists(st.tuples(keys, st.sampled_from(['"x"', '"y"', '"z\\u00e9"']) | json_values), min_size=1, max_size=6))
def test_the_engine_sees_the_model_that_was_resolved(pairs: list[tuple[str, str]]) -> None:
    """vLLM reads bodies with Python's json module. Keys may be repeated and escaped."""
    raw = ("{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}").encode()
    seen = json.loads(raw)
    try:
        body = parse_json(raw)
    except (openai_errors.ModelMissing, openai_errors.ModelNotString):
        assert not isinstance(seen.get("model"), str)
        return
    assert body.model == seen["model"]
    assert json.loads(body.asking_for("other@1")) == seen | {"model": "other@1"}


def test_for_an_adapter_only_the_bytes_of_the_model_change() -> None:
    raw = (
        b'{"a":1.0e5,"big":12345678901234567890123,"model":"x","s":"\\u00e9/\\/","nested":{"model": "x" , "l":[1 ,2]}}'
    )
    assert parse_json(raw).asking_for('y"@1') == raw.replace(b'"model":"x"', b'"model":"y\\"@1"')


def form(*parts: tuple[str, bytes], boundary: str = "XX") -> bytes:
    text = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"
        for disposition, value in parts
    )
    return text + f"--{boundary}--\r\n".encode()


MULTIPART = b"multipart/form-data; boundary=XX"
AUDIO = ('name="file"; filename="a.wav"', bytes(range(256)) * 50 + b"\r\n--X\r\nmodel\r\n")


def test_the_model_of_a_form_is_found_and_replaced_in_place() -> None:
    raw = form(AUDIO, ('name="model"', b"whisper:pirate"), ('name="language"', b"en"))
    body = parse_form(raw, MULTIPART)
    assert body.model == "whisper:pirate"
    assert body.asking_for("whisper:pirate@1") == raw.replace(b"whisper:pirate", b"whisper:pirate@1")


@pytest.mark.parametrize(
    ("raw", "content_type", "error"),
    [
        (form(AUDIO), MULTIPART, openai_errors.ModelMissing),
        (form(('name="model"', b"a"), ('name="model"', b"b")), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"; filename="m"', b"a")), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"a"))[:-6], MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"a"), boundary="YY"), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"\xff")), MULTIPART, openai_errors.InvalidForm),
        (form(*[('name="x"', b"a")] * 1001), MULTIPART, openai_errors.InvalidForm),
        (form(*[('name="x"' + ";" * 3000, b"a")] * 100), MULTIPART, openai_errors.InvalidForm),
        (form(('name="model"', b"a")), MULTIPART + b"; charset=utf-7", openai_errors.InvalidForm),
        (form(('name="model"', b"a")), b"multipart/form-data", openai_errors.InvalidForm),
        (form(('name="model"', b"a"), boundary="X" * 257), MULTIPART + b"X" * 255, openai_errors.InvalidForm),
        (b'{"model":"a"}', b"application/json", openai_errors.InvalidForm),
        (b"model=a", b"application/x-www-form-urlencoded", openai_errors.InvalidForm),
        (b"", MULTIPART, openai_errors.InvalidForm),
    ],
)
def test_an_invalid_form_is_refused(raw: bytes, content_type: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_form(raw, content_type)


@given(
    st.binary(max_size=8),
    st.sampled_from(
        [
            (b"%", b'form-data; name="model"'),
            (b"multipart/form-data; %; boundary=XX", b'form-data; name="model"'),
            (MULTIPART + b"%", b'form-data; name="model"'),
            (MULTIPART, b'form-data; name="model%"'),
            (MULTIPART, b"%"),
        ]
    ),
)
def test_a_form_is_refused_as_a_whole_or_can_be_used(data: bytes, template: tuple[bytes, bytes]) -> None:
    content_type, disposition = (part.replace(b"%", data) for part in template)
    raw = b"--XX\r\nContent-Disposition: " + disposition + b"\r\n\r\nm\r\n--XX--\r\n"
    try:
        body = parse_form(raw, content_type)
    except openai_errors.IngressError:
        return
    assert parse_form(body.asking_for("other@1"), content_type).model == "other@1"


def test_part_headers_of_a_form_take_little_time() -> None:
    """Splitting a header at its semicolons costs most."""
    parts = [('name="x"' + ";" * 4000, b"a")] * 900
    started = time.thread_time()
    with pytest.raises(openai_errors.InvalidForm, match=r"headers of its parts .* 131072 bytes"):
        parse_form(form(*parts), MULTIPART)
    assert time.thread_time() - started < 0.3


def receiving(*messages: MutableMapping[str, Any]) -> Receive:
    left = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def chunk(body: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


async def read(
    receive: Receive, *, declared: bytes | None = None, timeout_s: float = 5, held: list[int] | None = None
) -> bytes:
    hold = (held if held is not None else []).append
    return await read_body(receive, declared_length=declared, max_bytes=10, timeout_s=timeout_s, hold=hold)


async def test_a_body_in_chunks_is_joined() -> None:
    assert await read(receiving(chunk(b"12345"), chunk(b""), chunk(b"67890", more=False))) == b"1234567890"


async def test_a_body_with_a_declared_length_over_the_limit_is_not_read() -> None:
    with pytest.raises(openai_errors.BodyTooLarge):
        await read(receiving(), declared=b"11")


@pytest.mark.parametrize("declared", [None, b"3", b"nonsense"])
async def test_a_body_is_bounded_whatever_its_declared_length(declared: bytes | None) -> None:
    with pytest.raises(openai_errors.BodyTooLarge):
        await read(receiving(chunk(b"123456"), chunk(b"78901")), declared=declared)


@pytest.mark.parametrize(("declared", "sizes"), [(b"9", [9]), (None, [4, 9]), (b"nonsense", [4, 9]), (b"4", [4, 9])])
async def test_a_body_is_held_before_it_is_read_as_far_as_its_size_is_declared(
    declared: bytes | None, sizes: list[int]
) -> None:
    held: list[int] = []
    await read(receiving(chunk(b"1234"), chunk(b"56789", more=False)), declared=declared, held=held)
    assert held == sizes


async def test_a_body_that_does_not_arrive_times_out() -> None:
    with pytest.raises(openai_errors.BodyTimeout):
        await read(receiving(chunk(b"1")), timeout_s=0.01)


async def test_a_client_that_leaves_while_sending_raises() -> None:
    with pytest.raises(ClientGone):
        await read(receiving(chunk(b"1"), {"type": "http.disconnect"}))


@pytest.mark.parametrize(
    ("body", "user"),
    [
        (b'{"model":"m","user":"ann"}', "ann"),
        (b'{"model":"m"}', None),
        (b'{"model":"m","user":null}', None),
        (b'{"model":"m","user":7}', None),
    ],
)
def test_the_user_is_read_if_there_is_one(body: bytes, user: str | None) -> None:
    assert parse_json(body).user() == user
