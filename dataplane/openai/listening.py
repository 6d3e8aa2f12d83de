"""Sockets that HTTP servers listen on."""

from __future__ import annotations

import socket

_BACKLOG = 2048
"""Connections that wait to be accepted."""


def listener_on(host: str, port: int, *, write_timeout_s: float, shared: bool = False) -> socket.socket:
    """Listen on a port.

    Args:
        host: Address.
        port: 0: any free one.
        write_timeout_s: How long a client may read nothing, or acknowledge nothing, of what it was
            sent. The kernel then closes the connection, also one that the server has given up.
        shared: Let other processes listen on the same port. The kernel spreads connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Connections inherit both.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a token waits for no ACK
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_timeout_s * 1000))
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    return listener
