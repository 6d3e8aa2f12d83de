"""The parts of a request's URL."""

from __future__ import annotations

import functools
import urllib.parse

import httptools

_URLS_KEPT = 256
"""URLs whose parts are kept; an inference request has one of thirty."""


@functools.lru_cache(maxsize=_URLS_KEPT)
def url_parts(url: bytes) -> tuple[str, bytes, bytes]:
    """The path, the path as it was sent, and the query.

    Raises:
        httptools.HttpParserInvalidURLError: It is no URL.
    """
    parsed = httptools.parse_url(url)
    path: str = parsed.path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, parsed.path, parsed.query or b""
