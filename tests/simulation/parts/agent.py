"""An agent: the real keeper and subscriber, with a shell as in `dataplane.sync.client`."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol, cast

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.agent.ingress_swap import SwapTiming, until_ingress_decides_by
from dataplane.agent.ledger.usage import Usage
from dataplane.agent.relayed_snapshot import SnapshotPublisher, find_snapshot
from dataplane.agent.serve_api import ServeApi
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Key, Topic
from dataplane.settings import Settings
from dataplane.snapshot.activation import Activation
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.snapshot.validation import validation_rules
from dataplane.sync import keeper as keeper_module
from dataplane.sync.client import SyncClient, _decide, _remember
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.events import Accepted, Candidate, Diverged, Ended, Event, Refused, Rejected
from dataplane.sync.keeper import SnapshotKeeper
from dataplane.sync.revocations.keeper import Ingress as RevocationsIngress
from dataplane.sync.stored.compaction import Background
from dataplane.sync.stream.reconnecting import Timing, asked_wait_s, backoff_max_s
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.transitions import ProtocolViolation, State
from tests.simulation.parts.connection import Connection
from tests.simulation.parts.relay import SimulatedRelay
from tests.simulation.parts.revocations import SimulatedRevocations
from tests.simulation.parts.signatures import trusted_keys
from tests.simulation.virtual.clock import Clock, Timer
from tests.simulation.virtual.disk import Cut, Disk
from tests.simulation.virtual.environment import patched
from tests.simulation.virtual.files import VirtualDisk
from tests.simulation.virtual.tasks import Task

TIMING = Timing()
SWAP_TIMING = SwapTiming(poll_s=0.1)

Outcome = Accepted | Rejection | Diverged


class Site(Protocol):
    """The data plane that an agent belongs to."""

    data_plane_id: str
    disk: Disk
    relay: SimulatedRelay
    policy: Policy
    labels: Mapping[str, str]
    verifies: bool
    """Whether it asks for signatures."""

    def connect(self, agent: Agent) -> Connection | None:
        """Open a stream to a control plane; None: none answers."""

    def serve(self) -> ServeApi:
        """Ray Serve, as far as the agent asks it about ingress replicas."""

    # What the invariants are told.
    def booted(self, agent: Agent) -> None: ...
    def received(self, agent: Agent, response: pb.SyncResponse) -> None: ...
    def decided(self, agent: Agent, candidate: Candidate, outcome: Outcome) -> None: ...
    def refused(self, agent: Agent, rejected: Rejected) -> None: ...
    def sent(self, agent: Agent, request: pb.SyncRequest) -> None: ...
    def violated(self, agent: Agent, error: ProtocolViolation) -> None: ...
    def stepped(self, agent: Agent) -> None: ...
    def cut(self, agent: Agent) -> None: ...


class Agent:
    """One process of the agent, from its start to its end."""

    def __init__(self, clock: Clock, site: Site, instance_uid: str) -> None:
        self.instance_uid = instance_uid
        self.alive = True
        self.connection: Connection | None = None
        self.subscriber: Subscriber | None = None
        """None: it still boots."""
        self._clock = clock
        self._site = site
        self._random = clock.random(instance_uid)
        self._client: SyncClient | None = None
        self._tasks: list[Task] = []
        self._failures = 0
        self._opened_s = 0.0
        self._messages = 0
        self._wait: Timer | None = None
        self._write_due = False
        self._remembering = False
        self._ended: Ended | None = None
        """How the stream has ended while a decision was pending."""
        self._sequence = 0
        self._usage = Usage()
        rules = validation_rules("simulated", site.policy)
        self._publisher = SnapshotPublisher(cast(Relay, site.relay), rules=rules)
        self.keeper = _keeper(clock, site, instance_uid, activate=self._activate, background=self._in_background)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._spawn(self._run(), lambda _: None)

    def kill(self) -> None:
        """End the process. What it has written to files stays."""
        self.alive = False
        for task in self._tasks:
            task.cancel()
        if self._wait is not None:
            self._wait.cancel()
        if self.connection is not None:
            self.connection.break_off(client_notices_s=None, server_notices_s=0.1)

    def stop(self) -> None:
        """Let it end in good order."""
        self._guarded(self.keeper._disk.close)
        self.kill()

    async def _run(self) -> None:
        keeper = self.keeper
        self._site.relay.follow(lambda update: self._usage.observe(update, self._clock.now_s))
        await keeper.load(await find_snapshot(cast(Relay, self._site.relay)))
        client = keeper._client
        assert client is not None, "`load` makes the client"
        self._client, self.subscriber = client, client._subscriber
        self._site.booted(self)
        if keeper.snapshot is not None:
            await self._activate(keeper.snapshot)
        self._spawn(keeper_module._settle_for_ever(keeper._disk), lambda _: None)
        self._spawn(keeper._trusted.follow(self._ask_again, serving=lambda: keeper.snapshot), lambda _: None)
        self._spawn(keeper._retry_crashed(client), lambda _: self._hello_outdated())
        self._report()
        self._connect()

    def _ask_again(self, positions: Iterable[Position], number: int) -> None:
        self.keeper._ask_again(positions, number)
        self._hello_outdated()

    def _spawn(self, coroutine: object, on_done: Callable[[object], None]) -> None:
        self._tasks = [task for task in self._tasks if not task.is_done]
        task: Task = Task(self._clock, coroutine, on_done, lambda: self._site.stepped(self))  # type: ignore[arg-type]
        self._tasks.append(task)
        task.guard = self._guarded
        task.start()

    def _in_background(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do work later, or when somebody waits for it."""
        timer: Timer

        def run() -> None:
            if timer.action is not None and self.alive:
                timer.cancel()
                work()

        timer = self._clock.after(self._random.uniform(0.0, 1.0), lambda: self._guarded(run))
        return run

    def _guarded(self, call: Callable[[], object]) -> None:
        """Call what may touch the disk: the power may be cut meanwhile."""
        try:
            call()
        except Cut:
            self._site.cut(self)

    async def _activate(self, snapshot: Snapshot) -> None:
        """As in `dataplane.agent.agent`."""
        relay = cast(Relay, self._site.relay)
        self._sequence += 1
        await relay.put({Key(Topic.ACTIVATION): Activation(sequence=self._sequence, models={})})
        await self._publisher.put(snapshot, withdrawn=self.keeper.withdrawn)
        await until_ingress_decides_by(
            snapshot.position,
            positions=self._usage.ingress_positions,
            serve=self._site.serve(),
            on_lag=self._lags,
            timing=SWAP_TIMING,
        )
        self._report()

    def _lags(self, message: str) -> None:
        self.keeper.report_waiting(message)
        self._write()

    def _report(self) -> None:
        snapshot = self.keeper.snapshot
        quarantined: Mapping[str, object] = snapshot.quarantined if snapshot is not None else {}
        state = status_pb2.RESOURCE_STATE_QUARANTINED
        self.keeper.report({name: status_pb2.ResourceStatus(name=name, state=state) for name in quarantined})
        self._write()

    # -- streams -----------------------------------------------------------------------------------

    def _connect(self) -> None:
        if not self.alive or self.subscriber is None:
            return
        self._wait = None
        if self.subscriber.deciding:
            # Hello names the snapshot in service: `_decided` comes here.
            self._ended = Ended(reason="", reconnect_after_s=0.0)
            return
        connection = self._site.connect(self)
        self._opened_s = self._clock.now_s
        if connection is None:
            self._retry(Ended(reason="UNAVAILABLE", reconnect_after_s=0.0))
            return
        self.connection = connection
        connection.to_client.on_message = lambda message: self._read(connection, message)
        connection.to_client.on_end = lambda: self._close(connection, "the stream ended")
        connection.to_server.on_room = self._write
        connection.on_broken_client = lambda: self._close(connection, "broken")
        self.subscriber.open()
        self.keeper.revocations.open()
        if self._client is not None:
            self._client._hello_outdated.clear()
        self._messages = 0
        self._watch_silence(connection, seen=0, missed=0)
        self._write()

    def _watch_silence(self, connection: Connection, *, seen: int, missed: int) -> None:
        def look() -> None:
            if self.connection is not connection or not self.alive:
                return
            now_missed = missed + 1 if self._messages == seen else 0
            if now_missed >= TIMING.missed_heartbeats_max:
                self._close(connection, "SILENT")
            else:
                self._watch_silence(connection, seen=self._messages, missed=now_missed)

        self._clock.after(TIMING.heartbeat_s, look)

    def _hello_outdated(self) -> None:
        if self._client is not None and self._client._hello_outdated.is_set() and self.connection is not None:
            self._close(self.connection, "RETRY")

    def _close(self, connection: Connection, reason: str, reconnect_after_s: float = 0.0) -> None:
        """The stream is over for this end."""
        if self.connection is not connection or not self.alive or self.subscriber is None:
            return
        self.connection = None
        self.subscriber.close()
        connection.break_off(client_notices_s=None, server_notices_s=self._random.uniform(0.0, 0.2), late=True)
        self._retry(Ended(reason=reason, reconnect_after_s=reconnect_after_s))

    def _retry(self, ended: Ended) -> None:
        good = self._clock.now_s - self._opened_s >= TIMING.good_stream_s
        self._failures = 0 if good else self._failures + 1
        backoff_s = self._random.uniform(0.0, backoff_max_s(TIMING, self._failures))
        self._wait = self._clock.after(asked_wait_s(TIMING, ended) + backoff_s, self._connect)

    def _read(self, connection: Connection, response: pb.SyncResponse) -> None:
        if self.connection is not connection or not self.alive or self.subscriber is None:
            return
        self._messages += 1
        self._site.received(self, response)
        try:
            event = self.subscriber.receive(response)
        except ProtocolViolation as error:
            self._site.violated(self, error)
            self._close(connection, "PROTOCOL_VIOLATION")
            return
        self._act_on(connection, event)
        self._write()
        self._site.stepped(self)

    def _act_on(self, connection: Connection, event: Event | None) -> None:
        if isinstance(event, Ended):
            self._close(connection, event.reason, event.reconnect_after_s)
        elif isinstance(event, Candidate):
            candidate = event
            self._spawn(
                _decide(self.keeper, candidate),
                lambda outcome: self._decided(candidate, cast(Outcome, outcome)),
            )
        elif isinstance(event, Refused):
            self._site.refused(self, event.rejected)
            connection.to_client.paused = True  # until it is remembered
            self._spawn(_remember(self.keeper, event.rejected), lambda _: connection.to_client.resume())

    def _decided(self, candidate: Candidate, outcome: Outcome) -> None:
        assert self.subscriber is not None, "it has received a candidate"
        rejected = self.subscriber.decided(outcome)
        self._site.decided(self, candidate, outcome)
        if rejected is not None:
            self._site.refused(self, rejected)
            self._spawn(_remember(self.keeper, rejected), lambda _: None)
        self._write()
        if self._ended is not None:
            self._ended = None
            self._connect()

    def _write(self) -> None:
        """Write soon what is due."""
        if not self._write_due and self.alive and self.connection is not None:
            self._write_due = True
            self._clock.after(0.0, self._write_all)

    def _write_all(self) -> None:
        self._write_due = False
        connection = self.connection
        if not self.alive or connection is None or self.subscriber is None:
            return
        assert self.subscriber.state is not State.CLOSED, "a stream is open"
        while connection.to_server.has_room or connection.to_server.is_cut:
            message = self.keeper.revocations.next_message(self.subscriber)
            if message is None:
                return
            connection.to_server.write(message)
            self._site.sent(self, message)


def _keeper(
    clock: Clock,
    site: Site,
    instance_uid: str,
    *,
    activate: Callable[[Snapshot], Awaitable[None]],
    background: Background,
) -> SnapshotKeeper:
    """The keeper of a new agent, on the virtual disk."""
    started_s = clock.now_s
    settings = SimpleNamespace(
        data_dir=Path("/nowhere"),
        data_plane_id=site.data_plane_id,
        http_url="",
        controlplane="",
        credentials=None,
        trusted_keys=None,
        enrollment_token_file=None,
        labels_by_key=site.labels,
    )
    # The monotonic clock of a machine begins anywhere.
    directory = functools.partial(
        SnapshotDirectory, clock=lambda: clock.now_s - started_s + 1000.0, background=background
    )
    with patched(
        [
            (keeper_module, "FileDisk", lambda _: VirtualDisk(site.disk)),
            (keeper_module, "SnapshotDirectory", directory),
        ]
    ):
        return SnapshotKeeper(
            cast(Settings, settings),
            instance_uid=instance_uid,
            policy=site.policy,
            activate=activate,
            ingress=cast(RevocationsIngress, SimulatedRevocations()),
            trusted=trusted_keys(verifies=site.verifies),
        )
