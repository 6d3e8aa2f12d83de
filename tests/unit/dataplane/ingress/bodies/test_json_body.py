from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.ingress.bodies import json_body
from dataplane.ingress.bodies.json_body import parse_json
from dataplane.ingress.bodies.splice import WHOLE_BYTES_MAX, splice
from dataplane.ingress.tokens import usage_request
from dataplane.ingress.tokens.usage_request import ask_in_json
from dataplane.openai import errors as openai_errors
from tests.unit.dataplane.ingress.bodies.sent import sent

ADAPTER_CALLS_MAX = 16
"""An adapter's request has several hundred."""


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
    assert parse_json(sent(body.raw, body.asking_for("other@1"))).model == "other@1"


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
    assert json.loads(sent(raw, body.asking_for("other@1"))) == seen | {"model": "other@1"}


def decoded_and_encoded_anew(raw: bytes, **values: object) -> bytes:
    """The slow way to change fields of a body."""
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    fields |= {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}
    return msgspec.json.encode(fields)


blanks = st.text(" \t\r\n", max_size=3)
options = st.sampled_from(["null", "{}", '{"include_usage":false}', '{ "other" : [1] }'])
fields = st.one_of(
    st.tuples(st.sampled_from(['"model"', '"mod\\u0065l"', '"\\u006dodel"']), st.sampled_from(['"x"', '"x:\\u00e9"'])),
    st.tuples(st.sampled_from(['"stream_options"', '"stream\\u005foptions"']), options),
    st.tuples(st.text().map(json.dumps), json_values),
    st.tuples(
        st.sampled_from(['"a"', '"b"']),
        st.sampled_from(
            [
                '"x"',
                '{"model":"x","stream_options":{}}',
                '["x","model"]',
                '"\\"model\\":\\"x\\""',
                '"😀é\\ud83d\\ude00"',
                "12345678901234567890.10e+5",
                "-0.0",
                "[" * 100 + "]" * 100,
            ]
        ),
    ),
)


@given(st.lists(st.tuples(fields, blanks, blanks), max_size=6), blanks, blanks, st.booleans())
def test_splicing_says_the_same_to_the_engine_as_encoding_anew(
    pairs: list[tuple[tuple[str, str], str, str]], before: str, after: str, large: bool
) -> None:
    text = ",".join(f"{one}{key}{two}:{one}{value}{two}" for (key, value), one, two in pairs)
    padding = '"padding":"' + "x" * WHOLE_BYTES_MAX * large + '"'
    raw = f'{before}{{{before}{text}{"," * bool(text)}{padding},\t"model" :\n"last"{after}}}{after}'.encode()
    body = parse_json(raw)
    both = sent(raw, body.with_stream_options(b'{"include_usage":true}'), body.asking_for('o"@1'))
    slow = decoded_and_encoded_anew(raw, model='o"@1', stream_options={"include_usage": True})
    assert json.loads(both, object_pairs_hook=list) != json.loads(raw, object_pairs_hook=list)
    assert json.loads(both) == json.loads(slow)
    edit = body.asking_for("y")
    assert sent(raw, edit) == raw[: edit.start] + b'"y"' + raw[edit.end :]
    assert raw[edit.start : edit.end] == b'"last"'


@pytest.mark.parametrize("size", [1_000, 64_000, 4_000_000])
def test_a_body_is_scanned_once_whatever_is_asked_of_it(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    body = parse_json(b'{"model":"m","stream":true,"stream_options":{},"prompt":"%b","user":"ann"}' % (b"x" * size))
    scanned: list[int] = []

    def counting(decoder: msgspec.json.Decoder[Any]) -> SimpleNamespace:
        def decode(data: bytes) -> object:
            scanned.append(len(data))
            return decoder.decode(data)

        return SimpleNamespace(decode=decode)

    monkeypatch.setattr(json_body, "_STRING", counting(json_body._STRING))
    monkeypatch.setattr(usage_request, "_fields", counting(usage_request._fields))
    monkeypatch.setattr(json_body, "_FIELDS", None)
    assert body.streams
    assert body.user() == "ann"
    body.asking_for("other@1")
    ask_in_json("/v1/chat/completions", body)
    assert scanned
    assert sum(scanned) < 100


@pytest.mark.parametrize("size", [1_000, 64_000, 4_000_000])
def test_an_adapter_costs_its_base_a_few_calls_more_at_every_size(size: int) -> None:
    raw = b'{"messages":[{"role":"user","content":"%b"}],"model":"m:a"}' % (b"x" * size)

    def for_base() -> None:
        splice(parse_json(raw).raw, [])

    def for_adapter() -> None:
        splice(raw, [parse_json(raw).asking_for("other@1")])

    assert calls_of(for_adapter) - calls_of(for_base) <= ADAPTER_CALLS_MAX


def calls_of(work: Callable[[], None]) -> int:
    """Calls of functions in Python and in C."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    work()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_for_an_adapter_only_the_bytes_of_the_model_change() -> None:
    raw = (
        b'{"a":1.0e5,"big":12345678901234567890123,"model":"x","s":"\\u00e9/\\/","nested":{"model": "x" , "l":[1 ,2]}}'
    )
    assert sent(raw, parse_json(raw).asking_for('y"@1')) == raw.replace(b'"model":"x"', b'"model":"y\\"@1"')


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
