"""What can happen to the world: commits, faults, and operators. A plan names these methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.parts.catalog import GHOST
from tests.simulation.parts.connection import Connection
from tests.simulation.parts.control_plane import ControlPlane
from tests.simulation.parts.data_plane import DataPlane
from tests.simulation.parts.signatures import change_key
from tests.simulation.parts.store import Store
from tests.simulation.virtual.network import SLOW_LATENCY_S

if TYPE_CHECKING:
    from tests.simulation.world import World

LOST_NOTIFICATIONS = 0.2
"""Share of commits that other control planes find by looking only."""


class Happenings:
    """Methods `do_{kind}`, one for each kind of event of a plan."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock = world.clock
        self._checker = world.checker
        self._trace = world.trace
        self._chance = world.clock.random("happenings")

    def _plane(self, number: int) -> DataPlane:
        return self._world.planes[number % len(self._world.planes)]

    def _later(self, from_s: float, to_s: float, action: Callable[[], None]) -> None:
        self._clock.after(self._chance.uniform(from_s, to_s), action)

    def _with_stream(self, number: int, call: Callable[[Connection], None]) -> None:
        agent = self._plane(number).agent
        if agent is not None and agent.connection is not None:
            call(agent.connection)

    # -- commits -----------------------------------------------------------------------------------

    def do_commit(self, kind: str, first: int, second: int, count: int) -> None:
        living = [control_plane for control_plane in self._world.control_planes if control_plane.alive]
        store = self._world.databases.store
        if not living or store.is_away:
            return
        own = living[first % len(living)]
        for number in range(count):
            committed = store.commit(self._world.catalog.change((kind, first + number, second)))
            self._trace.add(own.name, "commits {}", committed.position)
            own.announce(committed.head)
        for other in living:
            if other is not own and self._chance.random() >= LOST_NOTIFICATIONS:
                self._later(0.001, 0.1, other.look)
        in_use = [oldest for item in living if (oldest := item.fan_out.oldest_in_use) is not None]
        store.purge(in_use)

    # -- waves -------------------------------------------------------------------------------------

    def _with_waves(self, call: Callable[[ControlPlane], None]) -> None:
        """Let an operator call a control plane."""
        living = [control_plane for control_plane in self._world.control_planes if control_plane.alive]
        if not living or self._world.databases.store.is_away:
            return
        own = self._chance.choice(living)
        call(own)
        for other in living:
            if other is not own:
                self._later(0.001, 0.1, other.look)

    def do_set_waves(self, soak_s: int) -> None:
        self._with_waves(lambda plane: plane.waves.set_policy(soak_s=soak_s, now=plane.now()))

    def do_clear_waves(self) -> None:
        self._with_waves(lambda plane: plane.waves.clear_policy(plane.now()))

    def do_operate_waves(self, kind: str) -> None:
        self._with_waves(lambda plane: plane.waves.operate(kind, plane.now()))

    # -- the database ------------------------------------------------------------------------------

    def do_restore_backup(self, back: int) -> None:
        """The store is lost, and a backup takes its place under a new uid."""
        store = self._world.databases.store
        revision = max(0, store.head.position.revision - back)
        restored = Store.restored(store, revision, self._world.store_uid())
        # What only a broken registry can commit is not in its next commit.
        entries = restored.commits[revision].entries
        self._world.catalog.entries = {name: entry for name, entry in entries.items() if GHOST not in name}
        waves = self._world.databases.waves.restored(restored)
        self._world.databases = self._world.new_databases(restored, waves)
        for number in range(len(self._world.control_planes)):
            self.do_kill_control_plane(number)

    def do_damage_read(self, reads: int) -> None:
        self._checker.read_damage = True
        self._world.databases.store.damaged_reads += 1 + reads % 2

    def do_database_away(self, long: int) -> None:
        store = self._world.databases.store
        store.is_away = True
        self._later(1.0, 4.0 * (1 + long), lambda: setattr(store, "is_away", False))

    # -- control planes ----------------------------------------------------------------------------

    def do_kill_control_plane(self, number: int) -> None:
        number %= len(self._world.control_planes)
        self._world.control_planes[number].kill()
        self._later(0.5, 8.0, lambda: self._restart_control_plane(number))

    def do_stop_control_plane(self, number: int) -> None:
        number %= len(self._world.control_planes)
        control_plane = self._world.control_planes[number]
        if control_plane.alive:
            control_plane.stop()
            self._later(1.0, 5.0, lambda: self._end(control_plane))
            self._later(6.0, 9.0, lambda: self._restart_control_plane(number))

    @staticmethod
    def _end(control_plane: ControlPlane) -> None:
        if control_plane.alive:
            control_plane.kill()

    def _restart_control_plane(self, number: int) -> None:
        if not self._world.control_planes[number].alive:
            self._trace.add(f"cp{number}", "starts")
            self._world.control_planes[number] = self._world.new_control_plane(number)

    def do_clock_step(self, number: int, hours: int) -> None:
        self._world.control_planes[number % len(self._world.control_planes)].clock_error_s = 3600.0 * (hours - 4)

    def do_wrong_key(self, number: int) -> None:
        """Somebody without the key speaks for a control plane."""
        planes = self._world.control_planes
        change_key(planes[number % len(planes)].heads, trusted=False)

    def do_right_key(self, number: int) -> None:
        planes = self._world.control_planes
        change_key(planes[number % len(planes)].heads, trusted=True)

    # -- streams -----------------------------------------------------------------------------------

    def do_break_stream(self, number: int, client: int, server: int) -> None:
        self._with_stream(
            number, lambda stream: stream.break_off(client_notices_s=client / 4, server_notices_s=server / 4)
        )

    def do_half_open(self, number: int, side: int, late: int) -> None:
        """One end learns within half a minute, by keepalive."""
        client_s, server_s = (0.05, 28.0) if side % 2 else (28.0, 0.05)
        self._with_stream(
            number,
            lambda stream: stream.break_off(client_notices_s=client_s, server_notices_s=server_s, late=bool(late % 2)),
        )

    def do_stop_reading(self, number: int) -> None:
        def stop(stream: Connection) -> None:
            stream.to_client.paused = True
            self._later(1.0, 90.0, stream.to_client.resume)

        self._with_stream(number, stop)

    def do_slow_link(self, number: int) -> None:
        def slow(stream: Connection) -> None:
            stream.to_client.latency_s = stream.to_server.latency_s = SLOW_LATENCY_S

        self._with_stream(number, slow)

    def do_duplicate_status(self, number: int) -> None:
        self._checker.duplicates = True
        self._with_stream(number, lambda stream: stream.duplicate_next_status())

    # -- data planes -------------------------------------------------------------------------------

    def do_kill_agent(self, number: int) -> None:
        self._plane(number).kill_agent()

    def do_stop_agent(self, number: int) -> None:
        self._plane(number).kill_agent(in_order=True)

    def do_crash_twice(self, number: int) -> None:
        for after_s in (0.0, 6.0, 12.0):
            self._clock.after(after_s, self._plane(number).kill_agent)

    def do_power_cut(self, number: int) -> None:
        self._plane(number).power_cut(self._chance)

    def do_cut_in_write(self, number: int, changes: int) -> None:
        self._plane(number).disk.cut_after = changes

    def do_kill_replica(self, number: int, replica: int) -> None:
        self._plane(number).kill_replica(replica)

    def do_stop_replica(self, number: int, replica: int) -> None:
        self._plane(number).stop_replica(replica)

    def do_resume_replicas(self, number: int) -> None:
        self._plane(number).resume_replicas()

    def do_lose_relay(self, number: int) -> None:
        plane = self._plane(number)
        if plane.agent is None:
            self._checker.memory_lost(plane)
        plane.lose_relay()

    def do_allow_new_store(self, number: int) -> None:
        self._plane(number).allow_new_store()

    def do_fill_disk(self, number: int) -> None:
        self._plane(number).disk.fill()

    def do_disk_read_only(self, number: int) -> None:
        self._plane(number).disk.read_only = True

    def do_free_disk(self, number: int) -> None:
        self._plane(number).disk.free()

    def do_damage_disk(self, number: int) -> None:
        plane = self._plane(number)
        self._checker.disk_lost(plane)
        damaged = plane.disk.damage(self._chance)
        self._trace.add(plane.data_plane_id, f"damaged: {damaged}")

    def do_lose_disk(self, number: int) -> None:
        """The disk is replaced by an empty one, which takes a stop of the whole machine."""
        plane = self._plane(number)
        self._checker.disk_lost(plane)
        plane.power_cut(self._chance)
        plane.disk.wipe()
