"""The tokens that a control plane leaves for clients and data planes on the same machine.

They are below the user's state directory, in a directory for each address that the control plane
listens on, with a file for each kind of token:
`$XDG_STATE_HOME/broadsheet/tokens/127.0.0.1:8300/admin`.
"""

from __future__ import annotations

import os
from pathlib import Path

from protocol.addresses import UNIX, host_of, is_local

ADMIN = "admin"
"""Token for people and programs. It permits everything."""

DATA_PLANE = "data-plane"
"""Token for data planes. It permits a Sync stream and nothing else."""

TOKEN_BYTES_MAX = 16 * 1024
"""Limit of a token file. gRPC servers accept no more metadata than this."""


def directory(address: str) -> Path | None:
    """Directory of the tokens for the control plane at `address`.

    None: it is on another machine, or this user has no home.
    """
    state_home = _state_home() if is_local(address) else None
    if state_home is None:
        return None
    name = address.replace("/", "_") if address.startswith(UNIX) else f"{_host(address)}:{address.rpartition(':')[2]}"
    return state_home / "broadsheet" / "tokens" / name


def find(address: str, kind: str) -> str | None:
    """The token of a kind for the control plane at `address`. None: there is none for this user."""
    place = directory(address)
    if place is None:
        return None
    try:
        return read(place / kind)
    except (OSError, ValueError):
        return None


def read(file: Path) -> str:
    """The token in a file, without surrounding white space.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no token.
    """
    with file.open("rb") as opened:
        content = opened.read(TOKEN_BYTES_MAX + 1)
    token = content.decode("ascii", errors="replace").strip()
    if not token or len(content) > TOKEN_BYTES_MAX or not token.isprintable() or not token.isascii() or " " in token:
        raise ValueError(f"{file} does not hold a token")
    return token


def _host(address: str) -> str:
    host = host_of(address)
    return "127.0.0.1" if host.lower() == "localhost" else host


def _state_home() -> Path | None:
    configured = os.environ.get("XDG_STATE_HOME")
    if configured:
        return Path(configured)
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:
        return None  # neither $HOME nor an entry in the user database
