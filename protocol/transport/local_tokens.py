"""Where a control plane on this machine leaves its generated tokens, and where clients and data
planes look for them.

A directory per address that the control plane listens on, below the user's state directory, with
one file per kind of
token: `$XDG_STATE_HOME/broadsheet/tokens/127.0.0.1:8300/admin`. Both ends make the path with the
functions here.
"""

from __future__ import annotations

import os
from pathlib import Path

from protocol.addresses import UNIX, host_of, is_local

ADMIN = "admin"
"""For people and programs: may do everything."""

DATA_PLANE = "data-plane"
"""For data planes: may open a Sync stream, and nothing else."""

TOKEN_BYTES_MAX = 16 * 1024
"""A token file is read up to this. gRPC servers take no more metadata than that either."""


def directory(address: str) -> Path | None:
    """Where the tokens for the control plane at `address` are. None: `address` is not one of this
    machine."""
    if not is_local(address):
        return None
    name = address.replace("/", "_") if address.startswith(UNIX) else f"{_host(address)}:{address.rpartition(':')[2]}"
    return _state_home() / "broadsheet" / "tokens" / name


def find(address: str, kind: str) -> str | None:
    """The token of that kind for the control plane at `address`, if one was left for this user."""
    place = directory(address)
    if place is None:
        return None
    try:
        return read(place / kind)
    except (OSError, ValueError):
        return None


def read(file: Path) -> str:
    """The token in a file: its content without white space around it.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no token.
    """
    with file.open("rb") as opened:
        content = opened.read(TOKEN_BYTES_MAX + 1)
    token = content.decode("ascii", errors="replace").strip()
    if not token or len(content) > TOKEN_BYTES_MAX or not token.isprintable() or not token.isascii() or " " in token:
        raise ValueError(f"{file} does not hold a token")
    return token


def _host(address: str) -> str:
    host = host_of(address)
    return "127.0.0.1" if host == "localhost" else host


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
