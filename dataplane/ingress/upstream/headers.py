"""Which headers pass between callers and engines, and the head of a request as bytes."""

from __future__ import annotations

import functools
import re

from broadsheet.v1 import snapshot_pb2
from dataplane.openai import errors as openai_errors
from dataplane.openai import wire
from dataplane.openai.asgi import Headers

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NOT_TO_ENGINE = _HOP_BY_HOP | {
    # set here
    b"content-length",
    b"expect",
    b"host",
    b"x-request-id",
    # CORS is decided by the ingress (cors.py): vLLM allows every origin by default
    b"origin",
    # the caller's credentials are for the ingress
    b"api-key",
    b"authorization",
    b"cookie",
    b"x-api-key",
}
_CORS_ANSWERS = frozenset(
    (
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-origin",
        b"access-control-expose-headers",
        b"access-control-max-age",
    )
)
NOT_TO_CALLER = _HOP_BY_HOP | _CORS_ANSWERS | {b"date", b"server", b"set-cookie", b"x-request-id"}
"""Headers of an answer that are not for the caller."""
OWN_PREFIX = wire.OWN_HEADER_PREFIX.encode()
"""The same for all headers that begin so."""
_SERVED_NAME = wire.SERVED_NAME_HEADER.encode()
_ADAPTER = wire.ADAPTER_HEADER.encode()
_NAMES_NOTHING = (b"keep-alive", b"close")
"""Values of `connection` that name no header."""
_ENCODED_ADAPTERS_MAX = 256
"""Adapters whose header is kept: encoding one takes 10 µs."""
_NOT_IN_QUERY = re.compile(rb"[\x00-\x20\x7f]")

_encoded_adapters: dict[int, tuple[snapshot_pb2.AdapterEntry, bytes]] = {}
"""By the identity of the entry, which a snapshot shares with the one before. The entry is kept too,
so no other object can have its identity."""


def engine_headers(
    headers: Headers,
    *,
    request_id: str,
    secret: str,
    served_name: str,
    adapter: snapshot_pb2.AdapterEntry | None,
) -> bytes:
    """The headers of a request to an engine: what it may see of the caller's, and Broadsheet's.

    Returns lines, each with its end.

    Raises:
        openai_errors.InvalidHttp: A value would end its line. The engine would take the rest for
            another header, or for another request.
    """
    lines = _of_caller(headers, _NOT_TO_ENGINE)
    lines.append(b"x-request-id: %b\r\n" % request_id.encode())
    lines.append(b"%b: %b\r\n" % (_SERVED_NAME, served_name.encode()))
    if secret:
        lines.append(b"authorization: %b\r\n" % wire.authorization(secret).encode())
    if adapter is not None:
        lines.append(b"%b: %b\r\n" % (_ADAPTER, _encoded(adapter)))
    joined = b"".join(lines)
    if joined.count(b"\n") != len(lines) or joined.count(b"\r") != len(lines):
        raise openai_errors.InvalidHttp
    return joined


def request_head(url: str, path: str, query: bytes, lines: bytes, body_bytes: int) -> bytes:
    """The head of a request.

    Args:
        url: Of the endpoint, without a slash at the end.
        path: Of the route.
        query: As the caller sent it, without its question mark.
        lines: From `engine_headers`.
        body_bytes: Length of the body.

    Raises:
        openai_errors.InvalidHttp: The query has a character that no URL may have.
    """
    if not query:
        return b"%b%bcontent-length: %d\r\n\r\n" % (_first_lines(url, path), lines, body_bytes)
    if _NOT_IN_QUERY.search(query) is not None:
        raise openai_errors.InvalidHttp
    first = b"POST %b?%b HTTP/1.1\r\nhost: %b\r\n" % (path.encode(), query, _authority(url))
    return b"%b%bcontent-length: %d\r\n\r\n" % (first, lines, body_bytes)


def named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that are hop-by-hop because `connection` says so."""
    return frozenset(
        option.strip().lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    )


def _of_caller(headers: Headers, dropped: frozenset[bytes]) -> list[bytes]:
    lines: list[bytes] = []
    has_content_type = False
    for name, value in headers:
        if name in dropped:
            if name == b"connection" and dropped is _NOT_TO_ENGINE and value.lower() not in _NAMES_NOTHING:
                return _of_caller(headers, dropped | named_by_connection(headers))
            continue
        if name.startswith(OWN_PREFIX) or not value.isascii():
            continue
        if name == b"content-type":
            if has_content_type:
                continue  # the ingress has parsed the body by the first one
            has_content_type = True
        lines.append(b"%b: %b\r\n" % (name, value))
    return lines


def _encoded(adapter: snapshot_pb2.AdapterEntry) -> bytes:
    kept = _encoded_adapters.get(id(adapter))
    if kept is None:
        if len(_encoded_adapters) >= _ENCODED_ADAPTERS_MAX:
            _encoded_adapters.clear()
        kept = _encoded_adapters[id(adapter)] = (adapter, wire.encode_adapter(adapter).encode())
    return kept[1]


@functools.lru_cache(maxsize=4096)  # endpoints times routes in use
def _first_lines(url: str, path: str) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: %b\r\n" % (path.encode(), _authority(url))


def _authority(url: str) -> bytes:
    return url.partition("://")[2].encode()
