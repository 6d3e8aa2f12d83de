"""On whose behalf the running code acts, and where its call came from. Pure.

Authentication sets the principal of each RPC with `acting_as`. The audit log and permission checks
read it with `current`, so that no layer between has to pass it on.
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
    """Stable, and unique within a way to authenticate: the name of a token, the subject of a
    JWT."""
    role: str
    """Its role, such as `admin`. Empty: none."""
    authentication: str
    """How it authenticated: `none`, `token`, `enrollment`, `oidc`, `mtls`."""
    data_plane: str = ""
    """The only data plane that it may speak for. Empty: none in particular."""
    is_local: bool = False
    """Whether its credential was made by this control plane, for this machine alone."""


ANONYMOUS = Principal(name="anonymous", role="", authentication="none")
"""The principal of calls without authentication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a call came from."""

    address: str
    """`host:port` or `unix:/path` of the peer. Empty: this process, not a call."""
    request_id: str
    """The `request_id` of the request. Empty: none."""


HERE = Origin(address="", request_id="")
"""This process, not a call."""

_principal: ContextVar[Principal] = ContextVar("principal", default=ANONYMOUS)
_origin: ContextVar[Origin] = ContextVar("origin", default=HERE)


def current() -> Principal:
    """The present principal. Tasks inherit it from the task that created them."""
    return _principal.get()


def origin() -> Origin:
    """The origin of the present call. Tasks inherit it from the task that created them."""
    return _origin.get()


class acting_as:
    """Make `principal` the present principal within the block.

    A class, because a Sync stream is such a block for as long as it lasts, and a generator keeps
    more memory.
    """

    __slots__ = ("_principal", "_token")

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def __enter__(self) -> None:
        self._token = _principal.set(self._principal)

    def __exit__(self, *_: object) -> None:
        _principal.reset(self._token)


@contextmanager
def called_from(origin: Origin) -> Iterator[None]:
    """Make `origin` the origin of the present call within the block."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)
