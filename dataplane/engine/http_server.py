"""The HTTP server of an engine replica."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from dataplane.openai.asgi import AsgiApp
from dataplane.openai.tls import ServerTls

_BACKLOG = 1024
"""Connections that wait to be accepted."""
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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it: a token waits for no ACK
    listener.bind((host, 0))
    listener.listen(_BACKLOG)
    config = uvicorn.Config(
        app,
        ssl_context_factory=(lambda config, default: tls.context) if tls is not None else None,
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
    shown = f"[{host}]" if family is socket.AF_INET6 else host
    scheme = "http" if tls is None else "https"
    return server, f"{scheme}://{shown}:{listener.getsockname()[1]}", serving
