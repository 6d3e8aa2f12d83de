"""Ports for servers of tests and benchmarks."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port of loopback that nothing listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
