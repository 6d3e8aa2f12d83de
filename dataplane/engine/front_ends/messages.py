"""What the replica and its front ends say to each other. Pure."""

from __future__ import annotations

import msgspec

# Calls of a front end to its replica.
READY = "ready"
"""It accepts requests. With a `Ready`."""
FAILED = "failed"
"""It could not start. With a `StartFailed`."""
ENSURE = "ensure"
"""Have the engine load an adapter. With its serialised entry; the answer is an `Ensured`."""

# Calls of the replica to a front end.
LOAD = "load"
"""How many requests it has. The answer is a `Load`."""
FORGET = "forget"
"""Forget an adapter unless a request uses it. With its name; the answer is `YES` or `NO`."""
STOP = "stop"
"""Finish the requests in progress, and end."""

YES = b"1"
NO = b"0"


class Ready(msgspec.Struct, frozen=True):
    """A front end accepts requests."""

    url: str
    """`http://{host}:{port}`, or `https`."""


class StartFailed(msgspec.Struct, frozen=True):
    """A front end could not start."""

    reason: str
    """UPPER_SNAKE."""
    message: str


class LoadedAdapter(msgspec.Struct, frozen=True, tag=True):
    """An adapter that the engine has loaded, as every front end has to name it to the engine."""

    name: str
    """Engine-side name."""
    number: int
    """The engine's number of it."""
    path: str
    """The directory of its files."""


class AdapterRefused(msgspec.Struct, frozen=True, tag=True):
    """Why the engine has not loaded an adapter: the fields of an AdapterError."""

    reason: str
    message: str
    retry_after_s: float


Ensured = LoadedAdapter | AdapterRefused


class Load(msgspec.Struct, frozen=True):
    """The requests that a front end handles."""

    in_flight: int


def encode(message: object) -> bytes:
    """A message as the body of a call or an answer."""
    return msgspec.msgpack.encode(message)
