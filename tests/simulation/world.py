"""Everything that runs, and what can happen to it."""

from __future__ import annotations

from controlplane.fleet.waves.states import State
from dataplane.snapshot.snapshot import Position
from tests.simulation.happenings import Happenings
from tests.simulation.invariants import Checker
from tests.simulation.parts.agent import Agent
from tests.simulation.parts.catalog import Catalog
from tests.simulation.parts.connection import Connection
from tests.simulation.parts.control_plane import ControlPlane, Databases
from tests.simulation.parts.data_plane import DataPlane
from tests.simulation.parts.fleet_tables import SimulatedFleetTables
from tests.simulation.parts.signatures import change_key
from tests.simulation.parts.store import Store
from tests.simulation.parts.waves import CANARY, WavesTable
from tests.simulation.plan import Plan
from tests.simulation.trace import Trace, shown
from tests.simulation.violation import Violation
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.network import LATENCY_S

SMALL_ENTRIES_MAX = 4
"""Entries that a data plane takes which `Plan.small` names."""
SETTLED_S = 420.0
"""Within this time after the last fault everyone has converged: the longest waits are 120 s for an
answer and 60 s for a silent stream, and a Goodbye may ask for 30 s."""
STEPS_PER_LOOK = 10
"""Between two looks whether everyone has converged."""
STEPS_MAX = 60_000


class World:
    """The simulated machines."""

    def __init__(self, plan: Plan, clock: Clock, trace: Trace) -> None:
        self.clock = clock
        self.trace = trace
        self.checker = Checker(self.clock, trace)
        self._chance = self.clock.random("world")
        self._plan = plan
        self._stores = 0
        self._connections: dict[str, int] = {}
        self.catalog = Catalog()
        self.databases = self.new_databases(Store(self.store_uid()))
        self.control_planes = [self.new_control_plane(number) for number in range(plan.control_planes)]
        self.planes = [
            DataPlane(
                self.clock,
                f"dp{number}",
                self.checker,
                self._connect,
                replicas=plan.replicas,
                entries_max=SMALL_ENTRIES_MAX if number in plan.small else None,
                verifies=plan.signed,
                labels=CANARY if number == 0 else {},
            )
            for number in range(plan.data_planes)
        ]

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the plan, then let everything heal, and wait until everyone has converged.

        Raises:
            Violation: an invariant does not hold.
        """
        happenings = Happenings(self)
        for plane in self.planes:
            plane.start()
        for event in self._plan.events:
            self._run_until(event.at_s)
            self.trace.add("world", f"{event.kind} {' '.join(map(str, event.arguments))}")
            getattr(happenings, f"do_{event.kind}")(*event.arguments)
        self._run_until(self.clock.now_s + 1.0)
        self.trace.add("world", "everything heals")
        self._heal()
        happenings.do_operate_waves("force")
        happenings.do_commit("model", 0, 0, 1)
        until_s = self.clock.now_s + SETTLED_S
        while self._missing():
            for _ in range(STEPS_PER_LOOK):
                if not self.clock.step(until_s):
                    raise Violation("everyone converges", self._who_has_not())
            self._check_steps()
            rollout = self.databases.waves.rollout
            if rollout is not None and rollout.state is State.HALTED:
                happenings.do_operate_waves("force")

    def _run_until(self, until_s: float) -> None:
        while self.clock.step(until_s):
            self._check_steps()

    def _check_steps(self) -> None:
        if self.clock.steps > STEPS_MAX:
            raise Violation("everyone converges", f"after {STEPS_MAX} steps: {self._who_has_not()}")

    def _heal(self) -> None:
        self.databases.store.is_away = False
        self.databases.store.damaged_reads = 0
        for plane in self.planes:
            plane.disk.free()
            plane.disk.cut_after = None
            plane.resume_replicas()
            connection = plane.agent.connection if plane.agent is not None else None
            if connection is not None:
                connection.to_client.resume()
                connection.to_client.latency_s = connection.to_server.latency_s = LATENCY_S
            plane.allow_new_store()
        for number, control_plane in enumerate(self.control_planes):
            change_key(control_plane.heads, trusted=True)
            if self.checker.read_damage:
                control_plane.kill()  # its chunks may hold what the database has answered wrongly
            if not control_plane.alive:
                self.control_planes[number] = self.new_control_plane(number)

    def _who_has_not(self) -> str:
        return "; ".join(self._missing())

    def _missing(self) -> list[str]:
        head = self.databases.store.head
        position = Position(
            store_uid=head.position.store_uid, revision=head.position.revision, digest=head.position.digest
        )
        missing = []
        for plane in self.planes:
            too_large = head.entry_count > plane.policy.limits.entries_max
            if not too_large:
                held = [replica.position for replica in plane.replicas]
                if plane.agent is None or plane.agent.keeper.snapshot is None or not held:
                    missing.append(f"{plane.data_plane_id} holds nothing")
                elif {plane.agent.keeper.snapshot.position, *held} != {position}:
                    missing.append(f"{plane.data_plane_id} has {', '.join(map(shown, held))}, not {shown(position)}")
            for control_plane in self.control_planes:
                known = control_plane.fleet.state.get(plane.data_plane_id)
                if known is None or known.settled_revision != position.revision:
                    missing.append(f"{control_plane.name} does not have {plane.data_plane_id} at {shown(position)}")
                elif not too_large and known.progress.serving != head.position:
                    missing.append(f"{control_plane.name} has {plane.data_plane_id} at {shown(known.progress.serving)}")
        return missing

    # -- parts -------------------------------------------------------------------------------------

    def store_uid(self) -> str:
        self._stores += 1
        return f"store-{self._stores}"

    def new_databases(self, store: Store, waves: WavesTable | None = None) -> Databases:
        self.checker.stores[store.uid] = store
        shared = self._plan.control_planes > 1
        tables = SimulatedFleetTables(store, self.clock) if shared else None
        return Databases(store, tables, waves or WavesTable(store), self._plan.signed)

    def new_control_plane(self, number: int) -> ControlPlane:
        return ControlPlane(self.clock, f"cp{number}", self.databases, self.checker)

    def _connect(self, plane: DataPlane, agent: Agent) -> Connection | None:
        control_plane = self._chance.choice(self.control_planes)
        if not control_plane.alive:
            return None
        number = self._connections[plane.data_plane_id] = self._connections.get(plane.data_plane_id, 0) + 1
        connection = Connection(self.clock, f"{plane.data_plane_id}/{number}")
        control_plane.accept(connection)
        return connection
