"""The relay without Ray: its actor in this process, and clients of it."""

from __future__ import annotations

import pickle

import ray

from dataplane.relay.actor import RelayActor
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Role, Writer


class RelayWorld:
    """An actor that can be restarted, and be away for a number of calls."""

    def __init__(self) -> None:
        self.restart()
        self.failures = 0
        """Calls that fail from now on, as calls of a dead actor do."""
        self.calls: list[str] = []

    def restart(self, started_at_ns: int | None = None) -> None:
        """Lose everything, as an actor that Ray restarts does. Its node's clock may be another."""
        self._actor = RelayActor(started_at_ns)

    def relay(self, role: Role, name: str, incarnation: int = 1) -> Relay:
        """A client as another process has it."""
        return Relay(Writer(role, name, incarnation), open_actor=lambda: self)

    @property
    def call(self) -> RelayWorld:
        """The actor's method, as a handle of Ray's has it."""
        return self

    async def remote(self, request: bytes) -> bytes:
        """Call it."""
        self.calls.append(pickle.loads(request)[0])  # noqa: S301  # of this process
        if self.failures:
            self.failures -= 1
            raise ray.exceptions.RayActorError
        return await self._actor.call(request)
