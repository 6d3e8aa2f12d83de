"""A data plane: a machine with a disk, an agent, a relay and ingress replicas."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, cast

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.agent.serve_api import ServeApi
from dataplane.relay.relay import Relay
from dataplane.relay.snapshots import read_snapshot
from dataplane.snapshot.policy import Limits, Policy
from dataplane.sync.events import Candidate, Rejected
from dataplane.sync.transitions import ProtocolViolation
from tests.simulation.parts.agent import Agent, Outcome
from tests.simulation.parts.connection import Connection
from tests.simulation.parts.ingress import IngressReplica
from tests.simulation.parts.relay import SimulatedRelay
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.disk import Disk

ALLOWED_SOURCES = ("file:///", "hf://")
RAY_NOTICES_S = 100.0
"""After this long Ray Serve has found that a replica does not answer its health checks."""
START_S = (0.2, 3.0)
"""How long a process takes to start: from, to."""


class Observer(Protocol):
    """Who is told what happens in data planes."""

    def booted(self, plane: DataPlane, agent: Agent) -> None: ...
    def agent_received(self, plane: DataPlane, agent: Agent, response: pb.SyncResponse) -> None: ...
    def decided(self, plane: DataPlane, agent: Agent, candidate: Candidate, outcome: Outcome) -> None: ...
    def refused(self, plane: DataPlane, agent: Agent, rejected: Rejected) -> None: ...
    def agent_sent(self, plane: DataPlane, agent: Agent, request: pb.SyncRequest) -> None: ...
    def agent_violated(self, plane: DataPlane, agent: Agent, error: ProtocolViolation) -> None: ...
    def stepped(self, plane: DataPlane) -> None: ...
    def stopped(self, plane: DataPlane) -> None: ...
    def crashed(self, plane: DataPlane, agent: Agent | None, *, power: bool) -> None: ...


class DataPlane:
    """One data plane with everything in it, and what can happen to it."""

    def __init__(
        self,
        clock: Clock,
        data_plane_id: str,
        observer: Observer,
        connect: Callable[[DataPlane, Agent], Connection | None],
        *,
        replicas: int,
        entries_max: int | None,
        verifies: bool,
        labels: Mapping[str, str],
    ) -> None:
        """
        Args:
            clock: Virtual time.
            data_plane_id: Its id.
            observer: Is told what happens.
            connect: Opens a stream to a control plane.
            replicas: Of the ingress.
            entries_max: It rejects larger snapshots; None: none.
            verifies: Whether it takes only what a trusted key has signed.
            labels: By which waves choose it.
        """
        self.data_plane_id = data_plane_id
        self.verifies = verifies
        self.labels = labels
        self.disk = Disk()
        self.relay = SimulatedRelay(clock, data_plane_id)
        limits = Limits() if entries_max is None else Limits(entries_max=entries_max)
        self.policy = Policy(allowed_sources=ALLOWED_SOURCES, limits=limits)
        self.agent: Agent | None = None
        self.replicas: list[IngressReplica] = []
        self.agents_started = 0
        self._replicas_started = 0
        self._replicas_wanted = replicas
        self._clock = clock
        self._observer = observer
        self._connect = connect
        self._random = clock.random(f"{data_plane_id} processes")
        self._starting = False

    # -- processes ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what does not run."""
        while len(self.replicas) < self._replicas_wanted:
            self._start_replica()
        self._start_agent()

    def _start_agent(self) -> None:
        self._starting = False
        if self.agent is None:
            self.agents_started += 1
            self.agent = Agent(self._clock, self, f"{self.data_plane_id}-{self.agents_started}")
            for replica in self.replicas:
                replica.forgotten |= replica.stopped and not self.relay.knows(replica)
            self.agent.start()

    def _start_replica(self) -> None:
        self._replicas_started += 1
        replica = IngressReplica(
            self._clock,
            f"{self.data_plane_id}-ingress-{self._replicas_started}",
            replace(self.policy, allow_new_store=True),
            lambda: dict(self.relay.values),
            lambda: read_snapshot(cast(Relay, self.relay)),
            self._on_view,
        )
        self.replicas.append(replica)
        self.relay.watch(replica)

    def _on_view(self, replica: IngressReplica) -> None:
        self.relay.report(replica)
        self._observer.stepped(self)

    def _soon(self, action: Callable[[], None]) -> None:
        self._clock.after(self._random.uniform(*START_S), action)

    # -- faults ------------------------------------------------------------------------------------

    def kill_agent(self, *, in_order: bool = False) -> None:
        """The agent's process ends. Ray starts another one."""
        if self.agent is None:
            return
        agent, self.agent = self.agent, None
        if in_order:
            agent.stop()
            self._observer.stopped(self)
        else:
            agent.kill()
            self._observer.crashed(self, agent, power=False)
        if not self._starting:
            self._starting = True
            self._soon(self._start_agent)

    def kill_replica(self, number: int) -> None:
        """An ingress replica's process ends. Ray Serve starts another one."""
        if self.replicas:
            self._end_replica(self.replicas[number % len(self.replicas)])

    def _end_replica(self, replica: IngressReplica) -> None:
        replica.kill()
        self.replicas.remove(replica)
        self.relay.forget(replica)
        self._soon(self._replace_replica)

    def _replace_replica(self) -> None:
        if len(self.replicas) < self._replicas_wanted:
            self._start_replica()

    def stop_replica(self, number: int) -> None:
        """An ingress replica's process stands still (SIGSTOP). Ray Serve replaces it in the end."""
        if self.replicas:
            replica = self.replicas[number % len(self.replicas)]
            replica.stopped = True
            self._clock.after(RAY_NOTICES_S, lambda: self._replace_stopped(replica))

    def _replace_stopped(self, replica: IngressReplica) -> None:
        if replica.stopped and replica in self.replicas:
            self._end_replica(replica)

    def resume_replicas(self) -> None:
        for replica in self.replicas:
            replica.go_on()

    def lose_relay(self) -> None:
        """The relay's actor crashes and is restarted; the agent puts its keys again."""
        self.relay.lose_everything()
        if self.agent is not None:
            agent = self.agent
            self._soon(lambda: self.relay.put_again() if self.agent is agent else None)

    def power_cut(self, chance: random.Random) -> None:
        """Everything ends at once, and what was not flushed is lost."""
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.kill()
        for replica in list(self.replicas):
            replica.kill()
            self.relay.forget(replica)
        self.replicas.clear()
        self.relay.lose_everything()
        self.disk.power_cut(chance)
        self._observer.crashed(self, agent, power=True)
        self._soon(self.start)

    def allow_new_store(self) -> None:
        """An operator allows it to follow another store, which takes a restart of the agent."""
        if not self.policy.allow_new_store:
            self.policy = replace(self.policy, allow_new_store=True)
            self.kill_agent(in_order=True)

    # -- what its agent asks and tells: `agent.Site` -----------------------------------------------

    def connect(self, agent: Agent) -> Connection | None:
        return self._connect(self, agent)

    def serve(self) -> ServeApi:
        return cast(ServeApi, self)

    def ingress_replicas(self) -> frozenset[str]:
        return frozenset(replica.replica_id for replica in self.replicas)

    def stop_ingress_replica(self, replica_id: str) -> None:
        for replica in list(self.replicas):
            if replica.replica_id == replica_id:
                self._end_replica(replica)

    def booted(self, agent: Agent) -> None:
        self._observer.booted(self, agent)

    def received(self, agent: Agent, response: pb.SyncResponse) -> None:
        self._observer.agent_received(self, agent, response)

    def decided(self, agent: Agent, candidate: Candidate, outcome: Outcome) -> None:
        self._observer.decided(self, agent, candidate, outcome)

    def refused(self, agent: Agent, rejected: Rejected) -> None:
        self._observer.refused(self, agent, rejected)

    def sent(self, agent: Agent, request: pb.SyncRequest) -> None:
        self._observer.agent_sent(self, agent, request)

    def violated(self, agent: Agent, error: ProtocolViolation) -> None:
        self._observer.agent_violated(self, agent, error)

    def stepped(self, agent: Agent) -> None:
        if agent is self.agent:
            self._observer.stepped(self)

    def cut(self, agent: Agent) -> None:
        """The power was cut in the middle of a change of the disk, perhaps of an orderly stop."""
        self.power_cut(self._random)
