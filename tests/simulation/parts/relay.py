"""The relay: what the agent has put, for ingress replicas and for the next agent.

It has the calls of `dataplane.relay.relay.Relay` that those use.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dataplane.agent.ledger.reports import ReportUpdate
from dataplane.relay.messages import IngressReport
from dataplane.relay.relay import Changes
from dataplane.relay.state import Limits
from dataplane.relay.topics import Key, Watched
from tests.simulation.parts.ingress import IngressReplica
from tests.simulation.virtual.clock import Clock

LATENCY_S = (0.0, 0.03)
SILENT_S = Limits().writer_lifetime_s

Reported = Callable[[ReportUpdate[IngressReport]], None]


class SimulatedRelay:
    """Keys and values. It outlives agents and ingress replicas."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.values: dict[Key, Any] = {}
        self._own: dict[Key, Any] = {}
        """All that the agent that runs has put, for a relay that was restarted."""
        self.watchers: list[IngressReplica] = []
        self.on_reported: Reported = lambda _: None
        """Of the agent that runs."""
        self._reports: dict[str, IngressReport] = {}
        self._clock = clock
        self._random = clock.random(f"{name} relay")
        self._epoch = 1

    async def put(self, values: Mapping[Key, Any], *, removed: Iterable[Key] = ()) -> None:
        """Set and remove keys, and tell the ingress replicas. A restarted relay gets everything."""
        if not self.values:
            self.values.update(self._own)
        for held in (self.values, self._own):
            held.update(values)
            for key in removed:
                held.pop(key, None)
        for replica in self.watchers:
            self._tell(replica)

    async def put_pickled(self, values: Mapping[Key, bytes], *, removed: Iterable[Key] = ()) -> None:
        """The same with values that are pickled already."""
        await self.put({key: pickle.loads(value) for key, value in values.items()}, removed=removed)  # noqa: S301

    async def read(self, watched: Sequence[Watched]) -> Changes:
        """All that there is now."""
        found = {key: value for key, value in self.values.items() if key in watched or key.topic in watched}
        return Changes(epoch="", is_complete=True, changed=found, removed=frozenset())

    def watch(self, replica: IngressReplica) -> None:
        """Tell a replica what there is, and what changes."""
        self.watchers.append(replica)
        self._tell(replica)

    def forget(self, replica: IngressReplica) -> None:
        """A replica is gone."""
        self.watchers.remove(replica)

    def put_again(self) -> None:
        """The agent has noticed that the relay was restarted."""
        if not self.values:
            self.values.update(self._own)
            for replica in self.watchers:
                self._tell(replica)

    def follow(self, on_reported: Reported) -> None:
        """A new agent takes what replicas report, from all that there is on."""
        self._own.clear()
        self.on_reported = on_reported
        on_reported(ReportUpdate(epoch=str(self._epoch), is_complete=True, changed=dict(self._reports)))

    def report(self, replica: IngressReplica) -> None:
        """A replica says what it decides by."""
        self._clock.after(self._random.uniform(*LATENCY_S), lambda: self._reported(replica))

    def knows(self, replica: IngressReplica) -> bool:
        """Whether it has the report of a replica."""
        return replica.replica_id in self._reports

    def lose_everything(self) -> None:
        """The actor has crashed, and is restarted empty."""
        self.values.clear()
        self._reports.clear()
        self._epoch += 1
        self.on_reported(ReportUpdate(epoch=str(self._epoch), is_complete=True, changed={}))

    def _reported(self, replica: IngressReplica) -> None:
        if replica not in self.watchers:
            return
        now_s, key = self._clock.now_s, replica.replica_id
        report = IngressReport(
            position=replica.position, activation_sequence=0, models={}, applications={}, reported_at=now_s
        )
        self._reports[key] = report
        self.on_reported(ReportUpdate(epoch=str(self._epoch), changed={key: report}))
        self._clock.after(SILENT_S, lambda: self._expire(key, report))

    def _expire(self, key: str, report: IngressReport) -> None:
        if self._reports.get(key) is report:
            del self._reports[key]
            self.on_reported(ReportUpdate(epoch=str(self._epoch), changed={}, removed=frozenset({key})))

    def _tell(self, replica: IngressReplica) -> None:
        self._clock.after(self._random.uniform(*LATENCY_S), replica.look)
