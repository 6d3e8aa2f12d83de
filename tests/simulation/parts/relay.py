"""The relay: what the agent has put, for ingress replicas and for the next agent.

It has the calls of `dataplane.relay.relay.Relay` that those use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataplane.relay.relay import Changes
from dataplane.relay.topics import Key
from dataplane.snapshot.snapshot import Position
from tests.simulation.parts.ingress import IngressReplica
from tests.simulation.virtual.clock import Clock

LATENCY_S = (0.0, 0.03)


class SimulatedRelay:
    """Keys and values. It outlives agents and ingress replicas."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.values: dict[Key, Any] = {}
        self.positions: dict[str, Position | None] = {}
        """What ingress replicas report that they decide by."""
        self.watchers: list[IngressReplica] = []
        self._clock = clock
        self._random = clock.random(f"{name} relay")

    async def put(self, values: Mapping[Key, Any], *, removed: Iterable[Key] = ()) -> None:
        """Set and remove keys, and tell the ingress replicas."""
        self.values.update(values)
        for key in removed:
            self.values.pop(key, None)
        for replica in self.watchers:
            self._tell(replica)

    async def read(self, watched: Sequence[Key]) -> Changes:
        """All that there is now."""
        found = {key: self.values[key] for key in watched if key in self.values}
        return Changes(epoch="", is_complete=True, changed=found, removed=frozenset())

    def watch(self, replica: IngressReplica) -> None:
        """Tell a replica what there is, and what changes."""
        self.watchers.append(replica)
        self._tell(replica)

    def forget(self, replica: IngressReplica) -> None:
        """A replica is gone."""
        self.watchers.remove(replica)
        self.positions.pop(replica.replica_id, None)

    def report(self, replica: IngressReplica) -> None:
        """A replica says what it decides by."""
        self._clock.after(self._random.uniform(*LATENCY_S), lambda: self._reported(replica))

    def lose_everything(self) -> None:
        """The actor has crashed, and is restarted empty."""
        self.values.clear()
        self.positions.clear()

    def _reported(self, replica: IngressReplica) -> None:
        if replica in self.watchers:
            self.positions[replica.replica_id] = replica.position

    def _tell(self, replica: IngressReplica) -> None:
        self._clock.after(self._random.uniform(*LATENCY_S), replica.look)
