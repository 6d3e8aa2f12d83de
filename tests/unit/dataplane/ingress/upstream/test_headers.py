"""The head that a request has on its way to an engine."""

from __future__ import annotations

import pytest

from dataplane.ingress.upstream.headers import engine_headers, request_head
from dataplane.openai import errors as openai_errors
from dataplane.openai import wire
from dataplane.openai.asgi import Headers
from tests import views

SECRET = "s"
OWN = b"x-request-id: id\r\nx-broadsheet-served-name: m\r\n"
WITH_SECRET = OWN + b"authorization: Bearer s\r\n"


def headers_for(*headers: tuple[bytes, bytes], secret: str = SECRET, request_id: str = "id") -> bytes:
    given: Headers = list(headers)
    return engine_headers(given, request_id=request_id, secret=secret, served_name="m", adapter=None)


NOT_FOR_THE_ENGINE = (
    *("authorization", "cookie", "x-api-key", "api-key", "proxy-authorization"),
    *("host", "expect", "content-length", "transfer-encoding", "upgrade"),
    *("x-request-id", "x-broadsheet-adapter", "x-broadsheet-anything"),
)


@pytest.mark.parametrize("name", NOT_FOR_THE_ENGINE)
def test_what_is_not_for_the_engine_is_dropped(name: str) -> None:
    assert headers_for((name.encode(), b"1")) == WITH_SECRET


def test_what_means_something_to_the_engine_is_kept_in_order() -> None:
    kept = [(b"traceparent", b"1"), (b"x-session-id", b"2"), (b"accept", b"a"), (b"accept", b"b")]
    assert headers_for(*kept) == b"traceparent: 1\r\nx-session-id: 2\r\naccept: a\r\naccept: b\r\n" + WITH_SECRET


@pytest.mark.parametrize(
    "connection",
    [
        [(b"connection", b"Keep-Alive, X-Hop")],
        [(b"connection", b"keep-alive"), (b"connection", b"x-hop")],
    ],
)
def test_headers_that_connection_names_are_dropped(connection: Headers) -> None:
    assert headers_for((b"x-hop", b"1"), *connection, (b"x-hop", b"2")) == WITH_SECRET


def test_the_body_has_one_content_type_the_first() -> None:
    lines = headers_for((b"content-type", b"a/b"), (b"content-type", b"c/d"))
    assert lines == b"content-type: a/b\r\n" + WITH_SECRET


def test_a_header_that_is_not_ascii_is_dropped() -> None:
    assert headers_for((b"x-name", b"caf\xe9")) == WITH_SECRET


def test_without_a_secret_no_authorization_is_sent() -> None:
    assert headers_for(secret="") == OWN


@pytest.mark.parametrize("value", [b"1\r\nx-broadsheet-adapter: forged", b"1\n", b"1\r", b"1\r\n\r\nGET / HTTP/1.1"])
def test_a_value_that_would_begin_another_line_is_refused(value: bytes) -> None:
    with pytest.raises(openai_errors.InvalidHttp):
        headers_for((b"x-name", value))
    with pytest.raises(openai_errors.InvalidHttp):
        headers_for(request_id=value.decode())


def test_each_adapter_is_sent_with_its_own_entry() -> None:
    first, second = views.adapter("m", "a"), views.adapter("m", "b")
    for entry in (first, second, first):
        lines = engine_headers([], request_id="id", secret="", served_name="m", adapter=entry)
        assert lines == OWN + f"x-broadsheet-adapter: {wire.encode_adapter(entry)}\r\n".encode()


def test_entries_of_adapters_that_are_gone_make_room() -> None:
    for number in range(1000):
        entry = views.adapter("m", f"a{number}")
        lines = engine_headers([], request_id="id", secret="", served_name="m", adapter=entry)
        assert wire.encode_adapter(entry).encode() in lines
        del entry  # its memory, and so its identity, may be that of the next one


def test_the_head_is_that_of_a_post_with_a_length() -> None:
    head = request_head("http://127.0.0.1:80", "/v1/completions", b"a=%2F&b", b"x: y\r\n", 7)
    assert head == b"POST /v1/completions?a=%2F&b HTTP/1.1\r\nhost: 127.0.0.1:80\r\nx: y\r\ncontent-length: 7\r\n\r\n"
    assert request_head("https://[::1]:80", "/p", b"", b"", 0) == (
        b"POST /p HTTP/1.1\r\nhost: [::1]:80\r\ncontent-length: 0\r\n\r\n"
    )


@pytest.mark.parametrize("query", [b"a b", b"a\r\nb: c", b"\0", b"\x7f"])
def test_a_query_that_would_end_the_request_line_is_refused(query: bytes) -> None:
    with pytest.raises(openai_errors.InvalidHttp):
        request_head("http://127.0.0.1:80", "/v1/completions", query, b"", 7)
