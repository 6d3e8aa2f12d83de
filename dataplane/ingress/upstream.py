"""Requests to engine replicas: one is sent, and its answer is read as it comes."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import TypedDict

import aiohttp
import yarl

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress.bodies.splice import Content
from dataplane.ingress.engine_trust import EngineTrust
from dataplane.ingress.limits import IngressSettings
from dataplane.openai import error_answers, wire
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import Headers
from dataplane.snapshot.activation import Endpoint

_WHOLE_WRITE_BYTES_MAX = 64 * 1024
"""Larger bodies are sent in pieces of so many bytes, each when the last one is nearly sent: what a
socket does not take at once is copied."""

_ERROR_BYTES_MAX = 16 * 1024
"""Of the error of a replica. Its words are redacted and have at most 300 characters."""

_HOST_PROBES = 3
"""Keepalive probes on an idle connection before its host is given up."""

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
_NOT_TO_CALLER = _HOP_BY_HOP | _CORS_ANSWERS | {b"date", b"server", b"set-cookie", b"x-request-id"}
_OWN_HEADER_PREFIX = wire.OWN_HEADER_PREFIX.encode()


class UpstreamFailed(Exception):
    """An engine replica gave no answer, or an incomplete one.

    Attributes:
        refused: The engine never had the request: no connection was made, or the wrong process
            answered.
    """

    def __init__(self, what: str, *, refused: bool) -> None:
        super().__init__(what)
        self.refused = refused


class UpstreamSilent(UpstreamFailed):
    """An engine replica had the request and was silent for too long.

    Another replica is not asked: that would only double the work.
    """

    def __init__(self) -> None:
        super().__init__("silent for too long", refused=False)


class _Tls(TypedDict, total=False):
    """How one request verifies the engine replica."""

    ssl: ssl.SSLContext
    server_hostname: str | None


class Answer:
    """An engine's answer: status, headers and the first piece of the body have arrived."""

    def __init__(self, response: aiohttp.ClientResponse, first: bytes) -> None:
        self._response = response
        self.first = first
        """Empty: the body is empty."""
        self.status = response.status
        self.streams_events = response.content_type == "text/event-stream"

    def headers(self) -> Headers:
        """The headers that the caller gets."""
        raw = [(name.lower(), value) for name, value in self._response.raw_headers]
        dropped = _NOT_TO_CALLER | _named_by_connection(raw)
        return [(name, value) for name, value in raw if name not in dropped and not name.startswith(_OWN_HEADER_PREFIX)]

    async def more(self) -> bytes:
        """What has come since, at least one byte; empty at the end.

        Raises:
            UpstreamSilent: nothing came for too long.
            UpstreamFailed: the answer broke off.
        """
        try:
            return await self._response.content.readany()
        except aiohttp.SocketTimeoutError as error:
            raise UpstreamSilent from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamFailed(type(error).__name__, refused=False) from error

    def close(self) -> None:
        """Keep the connection if the answer was read to its end.

        Otherwise close it, which stops the engine's work on the request.
        """
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """Pooled connections to engine replicas. Admission bounds how many there are."""

    def __init__(self, settings: IngressSettings, trust: EngineTrust | None = None) -> None:
        """
        Args:
            settings: Limits.
            trust: How engine replicas are verified. None: they speak HTTP without TLS.
        """
        self._settings = settings
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    async def start(
        self, endpoint: Endpoint, path: str, query: bytes, headers: Iterable[tuple[str, str]], body: Content
    ) -> Answer:
        """Send a request and wait for the first piece of the answer.

        An engine that streams sends its headers long before its first token. They are held back
        until then: as long as nothing was passed on, another replica can answer the request.

        Raises:
            UpstreamSilent: no answer came in time.
            UpstreamFailed: there is no answer.
            openai_errors.AdapterFailed: the engine could not load the adapter.
        """
        trust = self._trust
        if trust is not None and not endpoint.url.startswith("https:"):
            raise UpstreamFailed("engine without TLS", refused=True)
        tls: _Tls = {} if trust is None else {"ssl": trust.context, "server_hostname": trust.server_name}
        url = _url(endpoint.url, path)
        if query:
            url = yarl.URL(f"{endpoint.url}{path}?{query.decode('latin-1')}", encoded=True)
        data: bytes | AsyncIterator[memoryview]
        if isinstance(body, bytes) and len(body) <= _WHOLE_WRITE_BYTES_MAX:
            data = body
        else:
            parts = (body,) if isinstance(body, bytes) else body
            data, headers = _pieces(parts), [*headers, ("content-length", str(sum(map(len, parts))))]
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._open_session().post(url, data=data, headers=headers, **tls)
            if response.status == 401:
                # The secret was wrong, so another process has taken over the port. It says nothing
                # about the caller, whose key the ingress has checked.
                raise UpstreamFailed("wrong process at the endpoint", refused=True)
            if response.status == wire.ENGINE_DEAD_STATUS:
                raise UpstreamFailed("engine dead", refused=wire.ENGINE_HAD_REQUEST_HEADER not in response.headers)
            if wire.ADAPTER_FAILED_HEADER in response.headers:
                raise await _adapter_failure(response)
            return Answer(response, await response.content.readany())
        except aiohttp.SocketTimeoutError as error:
            _close(response)
            raise UpstreamSilent from error
        except (aiohttp.ClientError, OSError) as error:
            _close(response)
            refused = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            raise UpstreamFailed(type(error).__name__, refused=refused) from error
        except BaseException:
            _close(response)
            raise

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # made on first use: it belongs to the running event loop
            settings = self._settings
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    keepalive_timeout=settings.upstream_keepalive_s,
                    socket_factory=functools.partial(_open_socket, settings.host_timeout_s),
                ),
                # An answer may take any time, as long as something keeps coming.
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.request_timeout_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
                max_line_size=64 * 1024,
                max_field_size=64 * 1024,
            )
        return self._session

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


async def _pieces(parts: Iterable[bytes | memoryview]) -> AsyncIterator[memoryview]:
    """Views of a large body."""
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _WHOLE_WRITE_BYTES_MAX):
            yield view[start : start + _WHOLE_WRITE_BYTES_MAX]


def _open_socket(host_timeout_s: int, address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose connection fails once the other host is silent for `host_timeout_s`.

    A lost host does not close its connections. TCP alone would wait for ever, or a quarter of an
    hour after it has sent something. The host of a busy engine is not silent: it acknowledges.
    """
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    probe_s = max(1, host_timeout_s // _HOST_PROBES)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
    # Bounds how long sent data stays unacknowledged, and replaces the number of probes: tcp(7).
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, host_timeout_s * 1000)
    return opened


async def _adapter_failure(response: aiohttp.ClientResponse) -> openai_errors.AdapterFailed:
    """The error that a replica sent because its engine could not load the adapter."""
    try:
        message = error_answers.parse(await response.content.read(_ERROR_BYTES_MAX))
        retry_after_s = float(response.headers["retry-after"])
    except (KeyError, ValueError) as error:
        raise UpstreamFailed("an error that is none", refused=True) from error
    return openai_errors.AdapterFailed(message, retry_after_s=retry_after_s)


def _close(response: aiohttp.ClientResponse | None) -> None:
    if response is not None:
        response.close()


def engine_headers(
    headers: Headers,
    *,
    request_id: str,
    secret: str,
    served_name: str,
    adapter: snapshot_pb2.AdapterEntry | None,
) -> list[tuple[str, str]]:
    """The headers of a request to an engine: what it may see of the caller's, and Broadsheet's."""
    dropped = _NOT_TO_ENGINE | _named_by_connection(headers)
    result: list[tuple[str, str]] = []
    has_content_type = False
    for name, value in headers:
        if name in dropped or name.startswith(_OWN_HEADER_PREFIX) or not value.isascii():
            continue
        if name == b"content-type":
            if has_content_type:
                continue  # the ingress has parsed the body by the first one
            has_content_type = True
        result.append((name.decode("latin-1"), value.decode("latin-1")))
    result.append(("x-request-id", request_id))
    result.append((wire.SERVED_NAME_HEADER, served_name))
    if secret:
        result.append(("authorization", wire.authorization(secret)))
    if adapter is not None:
        result.append((wire.ADAPTER_HEADER, wire.encode_adapter(adapter)))
    return result


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that are hop-by-hop because `connection` says so."""
    for name, value in headers:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            return frozenset(option.strip().lower() for option in value.split(b","))
    return frozenset()


@functools.lru_cache(maxsize=4096)  # endpoints times routes in use
def _url(base: str, path: str) -> yarl.URL:
    return yarl.URL(base + path, encoded=True)
