"""On whose behalf the code that runs now acts, and where the call came from. Pure.

Authentication says who it is, once per RPC, with `acting_as`; whoever needs to know asks `current`.
What is written under it (the audit log) and what is allowed to it need not be handed the caller
through every layer between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who acts. Nothing in it is secret: it is logged, and kept in the audit log."""

    name: str
    """Stable, and unique among those who authenticate in the same way: the name of a token, the
    subject of a JWT."""
    role: str
    """The role that it acts in, such as `admin`. Empty: roles are not in force."""
    authentication: str
    """How it proved who it is: `none`, `token`, `oidc`, `mtls`."""
    data_plane: str = ""
    """The only data plane that it may speak for. Empty: any."""


ANONYMOUS = Principal(name="anonymous", role="", authentication="none")
"""Who acts when nobody has authenticated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a call came from."""

    address: str
    """`host:port` or `unix:/path` of the peer. Empty: no call, but this process itself."""
    request_id: str
    """The `request_id` that the caller gave. Empty: none."""


HERE = Origin(address="", request_id="")
"""This process itself."""

_principal: ContextVar[Principal] = ContextVar("principal", default=ANONYMOUS)
_origin: ContextVar[Origin] = ContextVar("origin", default=HERE)


def current() -> Principal:
    """Who acts now. Tasks inherit it from the task that made them."""
    return _principal.get()


def origin() -> Origin:
    """Where the present call came from. Tasks inherit it from the task that made them."""
    return _origin.get()


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Let `principal` be who acts, within the block."""
    token = _principal.set(principal)
    try:
        yield
    finally:
        _principal.reset(token)


@contextmanager
def called_from(origin: Origin) -> Iterator[None]:
    """Let `origin` be where the present call came from, within the block."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)
