"""The relay without Ray: its actor in this process, and clients of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from dataplane.relay.actor import RelayActor
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Role, Writer


class _Method:
    """Called as a method of a Ray actor's handle is."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


class RelayWorld:
    """An actor that can be restarted, and be away for a number of calls."""

    def __init__(self) -> None:
        self.restart()
        self.failures = 0
        """Calls that fail from now on, as calls of a dead actor do."""
        self.calls: list[str] = []

    def restart(self) -> None:
        """Lose everything, as an actor that Ray restarts does."""
        self.actor = RelayActor()

    def relay(self, role: Role, name: str, incarnation: int = 1) -> Relay:
        """A client as another process has it."""
        return Relay(Writer(role, name, incarnation), open_actor=lambda: self)

    def __getattr__(self, method: str) -> _Method:
        async def call(*arguments: Any) -> Any:
            self.calls.append(method)
            if self.failures:
                self.failures -= 1
                raise ray.exceptions.RayActorError
            return await getattr(self.actor, method)(*arguments)

        return _Method(call)
