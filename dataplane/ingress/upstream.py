"""Sending one request to one engine replica, and reading its answer as it comes."""

from __future__ import annotations

import base64
import functools
import io
import socket
from collections.abc import Iterable

import aiohttp
import yarl

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import Headers
from dataplane.snapshot.activation import Endpoint

SERVED_NAME_HEADER = "x-broadsheet-served-name"
"""To the engine: the name that the caller asked for, which is the `model` that responses show."""
ADAPTER_HEADER = "x-broadsheet-adapter"
"""To the engine: the adapter's entry (base64 of a serialised `AdapterEntry` without card and
labels)."""

ENGINE_DEAD_STATUS = 421
"""Misdirected Request, from a replica: its engine has died (`replica_app.py`)."""
ENGINE_HAD_REQUEST_HEADER = "x-broadsheet-engine-had-request"
"""With that status: the engine died when it had the request, perhaps because of it."""

_WHOLE_WRITE_BYTES_MAX = 1024 * 1024
"""aiohttp wants larger bodies in pieces, so that writing one does not hold up the event loop."""

_HOST_PROBES = 3
"""How often a host is asked, when nothing else goes to and fro, before it is given up."""

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
    # made anew here
    b"content-length",
    b"expect",
    b"host",
    b"x-request-id",
    # which pages may call is decided here: vLLM by itself allows all (cors.py)
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
_OURS = b"x-broadsheet-"
"""Only Broadsheet's own parts say these to each other; a caller's are dropped."""


class UpstreamFailed(Exception):
    """An engine replica gave no answer, or none to its end.

    Attributes:
        refused: no connection came about, or the wrong process answered, so the engine never had
        the request.
    """

    def __init__(self, what: str, *, refused: bool) -> None:
        super().__init__(what)
        self.refused = refused


class UpstreamSilent(UpstreamFailed):
    """An engine replica had the request and said nothing for too long. Asking another would only
    double the work."""

    def __init__(self) -> None:
        super().__init__("silent for too long", refused=False)


class Answer:
    """An engine's answer, of which status, headers and first piece of the body are there."""

    def __init__(self, response: aiohttp.ClientResponse, first: bytes) -> None:
        self._response = response
        self.first = first
        """Empty: the whole body is."""
        self.status = response.status
        self.streams_events = response.content_type == "text/event-stream"

    def headers(self) -> Headers:
        """Those that are for the caller."""
        raw = [(name.lower(), value) for name, value in self._response.raw_headers]
        dropped = _NOT_TO_CALLER | _named_by_connection(raw)
        return [(name, value) for name, value in raw if name not in dropped and not name.startswith(_OURS)]

    async def more(self) -> bytes:
        """What has come since, at least one byte; nothing at the end.

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
        """Keep the connection when the answer was read to its end, else close it: the engine then
        stops working."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """Kept connections to engine replicas. How many there are is bounded by admission, not here."""

    def __init__(self, settings: IngressSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def start(
        self, endpoint: Endpoint, path: str, query: bytes, headers: Iterable[tuple[str, str]], body: bytes
    ) -> Answer:
        """Send a request and wait for the first piece of the answer.

        An engine that streams sends its headers long before its first token. They are held back
        until then, because as long as nothing was passed on the request can still be answered by
        another replica.

        Raises:
            UpstreamSilent: none came in time.
            UpstreamFailed: there is none.
        """
        url = _url(endpoint.url, path)
        if query:
            url = yarl.URL(f"{endpoint.url}{path}?{query.decode('latin-1')}", encoded=True)
        data = body if len(body) <= _WHOLE_WRITE_BYTES_MAX else io.BytesIO(body)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._open_session().post(url, data=data, headers=headers)
            if response.status == 401:
                # About the secret that was sent, never about the caller: another process has taken
                # over the port.
                raise UpstreamFailed("wrong process at the endpoint", refused=True)
            if response.status == ENGINE_DEAD_STATUS:
                raise UpstreamFailed("engine dead", refused=ENGINE_HAD_REQUEST_HEADER not in response.headers)
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
        if self._session is None:  # made on first use, because it belongs to the event loop that runs then
            settings = self._settings
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    keepalive_timeout=settings.upstream_keepalive_s,
                    socket_factory=functools.partial(_open_socket, settings.host_timeout_s),
                ),
                # However long an answer is, it may go on while something comes.
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


def _open_socket(host_timeout_s: int, address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose connection ends with an error once the host at the other end is silent for
    `host_timeout_s`.

    A host that is lost says nothing, not even that the connection is over. TCP alone would wait for
    ever, and when it has sent something for a quarter of an hour. An engine that thinks is not
    silent: its host acknowledges.
    """
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    probe_s = max(1, host_timeout_s // _HOST_PROBES)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
    # Of what was sent, and by tcp(7) in place of a number of probes.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, host_timeout_s * 1000)
    return opened


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
    """The headers of a request to an engine: the caller's that mean something there, and
    Broadsheet's own."""
    dropped = _NOT_TO_ENGINE | _named_by_connection(headers)
    result: list[tuple[str, str]] = []
    has_content_type = False
    for name, value in headers:
        if name in dropped or name.startswith(_OURS) or not value.isascii():
            continue
        if name == b"content-type":
            if has_content_type:
                continue  # the body was read by the first one
            has_content_type = True
        result.append((name.decode("latin-1"), value.decode("latin-1")))
    result.append(("x-request-id", request_id))
    result.append((SERVED_NAME_HEADER, served_name))
    if secret:
        result.append(("authorization", f"Bearer {secret}"))
    if adapter is not None:
        result.append((ADAPTER_HEADER, adapter_header(adapter)))
    return result


def adapter_header(adapter: snapshot_pb2.AdapterEntry) -> str:
    """An adapter's entry as a header: without card and labels, which may be long and mean nothing
    to an engine."""
    entry = snapshot_pb2.AdapterEntry()
    entry.CopyFrom(adapter)
    entry.ClearField("labels")
    entry.revision.ClearField("card")
    return base64.b64encode(entry.SerializeToString()).decode()


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that are hop-by-hop because `connection` says so."""
    for name, value in headers:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            return frozenset(option.strip().lower() for option in value.split(b","))
    return frozenset()


@functools.lru_cache(maxsize=4096)  # endpoints times routes in use
def _url(base: str, path: str) -> yarl.URL:
    return yarl.URL(base + path, encoded=True)
