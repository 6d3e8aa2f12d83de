"""The headers that a request has on its way to an engine."""

from __future__ import annotations

import pytest

from dataplane.ingress.upstream import engine_headers
from dataplane.openai.asgi import Headers

SECRET = "s"


def headers_for(*headers: tuple[bytes, bytes], secret: str = SECRET) -> list[tuple[str, str]]:
    given: Headers = list(headers)
    return engine_headers(given, request_id="id", secret=secret, served_name="m", adapter=None)


OWN = [("x-request-id", "id"), ("x-broadsheet-served-name", "m"), ("authorization", "Bearer s")]


NOT_FOR_THE_ENGINE = (
    *("authorization", "cookie", "x-api-key", "api-key", "proxy-authorization"),
    *("host", "expect", "content-length", "transfer-encoding", "upgrade"),
    *("x-request-id", "x-broadsheet-adapter", "x-broadsheet-anything"),
)


@pytest.mark.parametrize("name", NOT_FOR_THE_ENGINE)
def test_what_is_not_for_the_engine_is_dropped(name: str) -> None:
    assert headers_for((name.encode(), b"1")) == OWN


def test_what_means_something_to_the_engine_is_kept_in_order() -> None:
    kept = [(b"traceparent", b"1"), (b"x-session-id", b"2"), (b"accept", b"a"), (b"accept", b"b")]
    assert headers_for(*kept)[:4] == [(name.decode(), value.decode()) for name, value in kept]


def test_headers_that_connection_names_are_dropped() -> None:
    assert headers_for((b"connection", b"Keep-Alive, X-Hop"), (b"x-hop", b"1")) == OWN


def test_the_body_has_one_content_type_the_first() -> None:
    assert headers_for((b"content-type", b"a/b"), (b"content-type", b"c/d"))[0] == ("content-type", "a/b")
    assert len(headers_for((b"content-type", b"a/b"), (b"content-type", b"c/d"))) == 1 + len(OWN)


def test_without_a_secret_no_authorization_is_sent() -> None:
    assert headers_for(secret="") == OWN[:2]
