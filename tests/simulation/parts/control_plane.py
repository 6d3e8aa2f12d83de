"""A control plane: the real fan-out, fleet state and chunks, in a process that can be killed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

from controlplane.catalog.domain import Head
from controlplane.commit_feed import CommitFeed
from controlplane.errors import DomainError
from controlplane.fleet.data_plane import Session
from controlplane.fleet.fleet import Fleet, fleet_of
from controlplane.fleet.shared_database import Sharing, SharingSettings
from controlplane.push.chunks import ChunkCache
from controlplane.push.fan_out import FanOut
from controlplane.store.fleet.tables import FleetTables
from controlplane.store.store import Store as RealStore
from controlplane.upkeep.waves import WavesUpkeep
from tests.simulation.parts.connection import Connection
from tests.simulation.parts.fleet_tables import SimulatedFleetTables
from tests.simulation.parts.server_stream import Listener, ServerStream
from tests.simulation.parts.signatures import head_signer
from tests.simulation.parts.store import Store
from tests.simulation.parts.waves import Told, WavesStore, WavesTable
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.tasks import run_now

TICK_S = 2.0
"""Between two writes of reports."""
LOOK_TICKS = 2
"""Ticks between two looks at what other control planes do, and two heartbeats."""
LEASE_S = 20.0

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Databases:
    """What all control planes of a store share."""

    store: Store
    tables: SimulatedFleetTables | None
    """None: there is a single control plane, with a database of its own."""
    waves: WavesTable
    signs: bool
    """Whether control planes sign."""


class Observer(Listener, Told, Protocol):
    """Who is told what happens at a control plane."""


class ControlPlane:
    """One process. After a crash another one is made in its place."""

    def __init__(self, clock: Clock, name: str, databases: Databases, listener: Observer) -> None:
        self.name = name
        self.uid = f"{name} since {clock.now_s}"
        self.clock = clock
        self.databases = databases
        self.listener = listener
        self.alive = True
        self.clock_error_s = 0.0
        """How far its time of day is off. Seconds."""
        self.streams: list[ServerStream] = []
        self.feed = CommitFeed()
        self.waves = WavesStore(databases.waves, listener)
        self.fleet = self._fleet(databases)
        self.fan_out = FanOut(self.fleet, now=self.now)
        self.feed.subscribe(self.fan_out.publish)
        self.heads = head_signer(signs=databases.signs)
        self.chunks = ChunkCache(databases.store)
        self._upkeep = WavesUpkeep(
            cast(RealStore, self.waves), self.fleet, now=self.now, clock=lambda: clock.now_s - self._started_s
        )
        self._started_s = clock.now_s
        self._upkeep_due = False
        self._ticks = 0
        self._try(lambda: run_now(self.fleet.waves.refresh()))
        self._try(lambda: run_now(self._upkeep._remember_all()))
        self.fleet.changed.listen(lambda _: self._keep_up_soon())
        self._tick()

    def _fleet(self, databases: Databases) -> Fleet:
        sharing = None
        if databases.tables is not None:
            sharing = Sharing(
                tables=cast(FleetTables, databases.tables),
                read_head=databases.store.read_head,
                commits=self.feed,
                replica_uid=self.uid,
                settings=SharingSettings(lease_s=LEASE_S),
            )
        return fleet_of(databases.store, head=databases.store.head, waves=self.waves, sharing=sharing)

    def now(self) -> datetime:
        """The time of day as this machine has it."""
        return _EPOCH + timedelta(seconds=self.clock.now_s + self.clock_error_s)

    def accept(self, connection: Connection) -> None:
        """A data plane connects."""
        self.streams.append(ServerStream(self, connection))

    def claim(self, data_plane_id: str) -> Session:
        """Number a stream. The real database puts together what is claimed at the same time.

        Raises:
            Unavailable: the database is away.
        """
        tables = self.databases.tables
        if tables is None:
            return run_now(self.fleet.database.claim(data_plane_id))
        return Session(run_now(tables.claim([data_plane_id], self.uid))[data_plane_id])

    def announce(self, head: Head) -> None:
        """It has committed a snapshot itself."""
        if self.alive:
            self.feed.publish(head)
            self.clock.after(0.01, self._refresh)

    def look(self) -> None:
        """Look at what others have committed and reported."""
        if self.alive:
            self._try(lambda: run_now(self.fleet.database.catch_up()))
            self._refresh()

    def _refresh(self) -> None:
        """Read what the database has of the waves."""
        if self.alive:
            self._try(lambda: run_now(self.fleet.waves.refresh()))

    def _keep_up_soon(self) -> None:
        if not self._upkeep_due and self.alive and self.fleet.waves.rollout is not None:
            self._upkeep_due = True
            self.clock.after(0.05, self._keep_up)

    def _keep_up(self) -> None:
        """Make the moves of the rollout that are due."""
        self._upkeep_due = False
        if self.alive:
            self._try(lambda: run_now(self._upkeep.advance()))

    def kill(self) -> None:
        """End the process: its memory is lost."""
        self.alive = False
        for stream in list(self.streams):
            stream.vanish()
            stream.connection.break_off(client_notices_s=0.1, server_notices_s=None)

    def stop(self) -> None:
        """Say Goodbye on all streams, and write the last reports."""
        for stream in list(self.streams):
            stream.stream.end("SHUTTING_DOWN", reconnect_after_s=0.5)
        self._try(lambda: run_now(self.fleet.writer.flush()))

    def _tick(self) -> None:
        if not self.alive:
            return
        self._ticks += 1
        if self._ticks % LOOK_TICKS == 0:
            self.look()
            if self.databases.tables is not None:
                self._try(lambda: run_now(self._beat()))
        if self.fleet.waves.rollout is not None:
            self._keep_up()
        if self.fleet.state.has_unwritten:
            run_now(self.fleet.writer.flush())
        self.clock.after(TICK_S, self._tick)

    async def _beat(self) -> None:
        tables = self.databases.tables
        assert tables is not None, "a control plane that shares its database beats"
        await tables.heartbeat(self.uid, self.fan_out.oldest_in_use)

    @staticmethod
    def _try(call: Callable[[], object]) -> None:
        with contextlib.suppress(DomainError):  # the database is away; the next tick tries again
            call()
