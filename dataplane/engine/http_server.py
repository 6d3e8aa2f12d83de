"""The HTTP server of an engine replica."""

from __future__ import annotations

import asyncio
import dataclasses
import socket

import uvicorn

from dataplane.openai.asgi import AsgiApp
from dataplane.openai.http_limits import HttpLimits
from dataplane.openai.http_protocol import protocol_class
from dataplane.openai.listening import listener_on
from dataplane.openai.tls import ServerTls
from protocol.transport.open_files import allow_connections

_LIMITS = HttpLimits(
    max_header_bytes=2 * 1024 * 1024,
    max_header_fields=256,
    max_url_bytes=64 * 1024,
    max_connections_per_address=4096,
    max_unread_bytes=512 * 1024 * 1024,
    max_unread_bytes_per_address=512 * 1024 * 1024,
    write_timeout_s=600.0,
)
"""Its callers are ingress replicas, a few addresses with many connections. They add headers to
those of their callers, and read an answer as slowly as their callers do."""
_START_POLL_S = 0.01


async def serve_http(
    app: AsgiApp, host: str, tls: ServerTls | None = None
) -> tuple[uvicorn.Server, str, asyncio.Task[None]]:
    """Serve `app` on a free port of `host`. Returns when it accepts connections.

    Args:
        app: The app.
        host: Address to listen on, without brackets.
        tls: Its certificate. None: HTTP without TLS.

    Returns:
        The server, its URL, and the task that serves until `should_exit` is set.

    Raises:
        RuntimeError: the server ended while it started.
    """
    limits = dataclasses.replace(_LIMITS, max_connections=allow_connections(_LIMITS.max_connections))
    listener = listener_on(host, 0, write_timeout_s=_LIMITS.write_timeout_s)
    config = uvicorn.Config(
        app,
        ssl_context_factory=(lambda config, default: tls.context) if tls is not None else None,
        http=protocol_class(limits, count_refusal=lambda code: None),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    while not server.started:
        if serving.done():
            await serving
            raise RuntimeError("the HTTP server ended while it started")
        await asyncio.sleep(_START_POLL_S)
    shown = f"[{host}]" if listener.family is socket.AF_INET6 else host
    scheme = "http" if tls is None else "https"
    return server, f"{scheme}://{shown}:{listener.getsockname()[1]}", serving
