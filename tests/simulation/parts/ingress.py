"""An ingress replica: it takes over what the relay has, and decides requests by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dataplane.ingress.relayed_view import RelayedView
from dataplane.relay.relay import Changes
from dataplane.relay.snapshots import RelayedSnapshot
from dataplane.relay.topics import Key
from dataplane.snapshot.activation import View
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.snapshot.validation import validation_rules
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.tasks import Task

REPORT_S = 15.0

Read = Callable[[], Mapping[Key, Any]]
ReadSnapshot = Callable[[], Awaitable[RelayedSnapshot | None]]


class IngressReplica:
    """One process. Ray Serve starts another one when it ends."""

    def __init__(
        self,
        clock: Clock,
        replica_id: str,
        policy: Policy,
        read: Read,
        read_snapshot: ReadSnapshot,
        on_view: Callable[[IngressReplica], None],
    ) -> None:
        """
        Args:
            clock: Virtual time.
            replica_id: Unique in the run.
            policy: Of the data plane.
            read: What the relay has now.
            read_snapshot: All that it has of the snapshot.
            on_view: Called when it decides by another snapshot, and to renew its report.
        """
        self.replica_id = replica_id
        self.view: View | None = None
        self.alive = True
        self.stopped = False
        """It does nothing, and its process lives."""
        self.forgotten = False
        """Neither the relay nor the agent know what it decides by: both were lost meanwhile."""
        rules = validation_rules("simulated", policy)
        self._relayed = RelayedView(policy, rules, read_snapshot)
        self._read = read
        self._on_view = on_view
        self._clock = clock
        self._task: Task | None = None
        self._missed = False
        """There is something newer than what is being taken over."""
        self._renew()

    @property
    def snapshot(self) -> Snapshot | None:
        """What it decides by; None: it refuses requests still."""
        return self.view.snapshot if self.view is not None else None

    @property
    def position(self) -> Position | None:
        return self.view.snapshot.position if self.view is not None else None

    def look(self) -> None:
        """There may be something new in the relay."""
        if not self.alive:
            return
        if self.stopped or self._task is not None:
            self._missed = True
            return
        self._missed = False
        changes = Changes(epoch="", is_complete=True, changed=self._read(), removed=frozenset())
        self._task = Task(self._clock, self._relayed.take(changes), self._taken)
        self._task.start()

    def go_on(self) -> None:
        """Its process runs again."""
        self.stopped = self.forgotten = False
        self.look()

    def kill(self) -> None:
        self.alive = False
        if self._task is not None:
            self._task.cancel()

    def _taken(self, view: View | None) -> None:
        self._task = None
        if view is not None:
            self.view = view
            self._on_view(self)
        if self._missed:
            self.look()

    def _renew(self) -> None:
        if self.alive:
            if not self.stopped:
                self._on_view(self)
            self._clock.after(REPORT_S, self._renew)
