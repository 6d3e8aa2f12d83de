"""Requests to engine replicas over kept connections."""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse

from dataplane.ingress.bodies.splice import Content
from dataplane.ingress.engine_trust import EngineTrust
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.upstream.answer import Answer
from dataplane.ingress.upstream.connection import Connection
from dataplane.ingress.upstream.failures import UpstreamFailed
from dataplane.ingress.upstream.headers import request_head
from dataplane.ingress.upstream.pool import ConnectionPool
from dataplane.openai import error_answers, wire
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import Endpoint

_ERROR_BYTES_MAX = 16 * 1024
"""Of the error of a replica. Its words are redacted and have at most 300 characters."""
_ENGINE_HAD_REQUEST = wire.ENGINE_HAD_REQUEST_HEADER.encode()
_ADAPTER_FAILED = wire.ADAPTER_FAILED_HEADER.encode()


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
        self._pool = ConnectionPool(keepalive_s=settings.upstream_keepalive_s, silence_s=settings.request_timeout_s)

    async def start(self, endpoint: Endpoint, path: str, query: bytes, headers: bytes, body: Content) -> Answer:
        """Send a request and wait for the first piece of the answer.

        An engine that streams sends its headers long before its first token. They are held back
        until then: as long as nothing was passed on, another replica can answer the request.

        Args:
            endpoint: The engine replica.
            path: Of the route.
            query: As the caller sent it, without its question mark.
            headers: Lines from `engine_headers`.
            body: What is sent, whole or in parts that follow each other.

        Raises:
            UpstreamSilent: no answer came in time.
            UpstreamFailed: there is no answer.
            openai_errors.AdapterFailed: the engine could not load the adapter.
            openai_errors.InvalidHttp: no such request can be sent.
        """
        tls = None
        if self._trust is not None:
            if not endpoint.url.startswith("https:"):
                raise UpstreamFailed("engine without TLS", refused=True)
            tls = self._trust.context
        parts = (body,) if isinstance(body, bytes) else body
        body_bytes = sum(map(len, parts))
        head = request_head(endpoint.url, path, query, headers, body_bytes)
        connection = self._pool.take(endpoint.url, tls) or await self._connect(endpoint.url, tls)
        try:
            await connection.send(head, parts, body_bytes)
            await connection.head()
            if connection.answer.status == 401:
                # The secret was wrong, so another process has taken over the port. It says nothing
                # about the caller, whose key the ingress has checked.
                raise UpstreamFailed("wrong process at the endpoint", refused=True)
            if connection.answer.status == wire.ENGINE_DEAD_STATUS:
                had_request = connection.answer.kept_back_value(_ENGINE_HAD_REQUEST) is not None
                raise UpstreamFailed("engine dead", refused=not had_request)
            answer = Answer(connection, await connection.more(), self._pool.give_back)
            if connection.answer.kept_back_value(_ADAPTER_FAILED) is not None:
                raise await _adapter_failure(answer)
            return answer
        except BaseException:
            connection.abort()
            raise

    async def _connect(self, url: str, tls: ssl.SSLContext | None) -> Connection:
        settings, pool = self._settings, self._pool
        if pool.is_closed:
            raise UpstreamFailed("closed", refused=True)
        address = urllib.parse.urlsplit(url)
        assert address.hostname is not None, "endpoints have a host"
        assert address.port is not None, "endpoints have a port"
        server_name = self._trust.server_name if self._trust is not None else None
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(
                        endpoint=url, tls=tls, host_timeout_s=settings.host_timeout_s, on_lost=pool.on_lost
                    ),
                    address.hostname,
                    address.port,
                    ssl=tls,
                    server_hostname=server_name,
                )
        except OSError as error:  # timeouts and certificates are among them
            raise UpstreamFailed(type(error).__name__, refused=True) from error
        pool.add(connection)
        return connection

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


async def _adapter_failure(answer: Answer) -> openai_errors.AdapterFailed:
    """The error that a replica sent because its engine could not load the adapter."""
    body = answer.first
    while len(body) <= _ERROR_BYTES_MAX and (piece := await answer.more()):
        body += piece
    try:
        message = error_answers.parse(body)
        retry_after_s = float(dict(answer.headers()).get(b"retry-after", b""))
    except ValueError as error:
        raise UpstreamFailed("an error that is none", refused=True) from error
    return openai_errors.AdapterFailed(message, retry_after_s=retry_after_s)
