"""The parts of URLs."""

from __future__ import annotations

import httptools
import pytest

from dataplane.openai.exchange.urls import url_parts


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        (b"/v1/models", ("/v1/models", b"/v1/models", b"")),
        (b"/v1/models/a%2Fb?x=%20&y", ("/v1/models/a/b", b"/v1/models/a%2Fb", b"x=%20&y")),
        (b"/%C3%BC", ("/ü", b"/%C3%BC", b"")),
        (b"http://host:1/path?q", ("/path", b"/path", b"q")),
    ],
)
def test_a_path_is_given_decoded_and_as_it_was_sent(url: bytes, parts: tuple[str, bytes, bytes]) -> None:
    assert url_parts(url) == parts


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(httptools.HttpParserInvalidURLError):
        url_parts(b"no url")


def test_no_more_than_a_few_urls_are_kept() -> None:
    for number in range(1000):
        url_parts(b"/%d" % number)
    assert url_parts.cache_info().currsize <= 256
