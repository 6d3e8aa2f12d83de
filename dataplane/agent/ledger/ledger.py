"""The ledger: everything that is known of the running applications. Pure.

What the agent does and what others report go in as events; `situation` gives the immutable picture
that a plan is made from. Times are seconds since the epoch, and are passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from broadsheet.v1 import status_pb2
from dataplane.agent.giving_up import Backoff, Failures
from dataplane.agent.ledger.activations import Models, serving, successor
from dataplane.agent.ledger.applications import Applications
from dataplane.agent.ledger.cold_starts import cold_start_of
from dataplane.agent.ledger.reports import ReportUpdate
from dataplane.agent.ledger.usage import Usage
from dataplane.agent.resources import Resources
from dataplane.agent.situation import Situation, StartLimits
from dataplane.relay.messages import ApplicationRecord, IngressReport, SleepOrder
from dataplane.snapshot.activation import Activation
from dataplane.snapshot.snapshot import Snapshot


@dataclass(slots=True)
class Ledger:
    """Owns the state of the applications, their use, and the activation made from both."""

    drain_s: float
    """How long requests may drain from an application that has left the activation."""
    failures: Failures
    applications: Applications
    usage: Usage = field(default_factory=Usage)
    start_limits: StartLimits = field(default_factory=StartLimits)
    activation: Activation = field(default_factory=lambda: Activation(sequence=0, models={}))
    """The latest one. It is replaced, never changed."""
    _cold_starts: dict[str, status_pb2.ColdStart] = field(default_factory=dict)
    """By model or pinned revision: its latest one, which outlives the application."""

    @classmethod
    def empty(cls, *, drain_s: float, backoff: Backoff, start_limits: StartLimits | None = None) -> Ledger:
        """The ledger of a data plane without applications."""
        failures = Failures(backoff)
        return cls(
            drain_s=drain_s,
            failures=failures,
            applications=Applications(failures),
            start_limits=start_limits or StartLimits(),
        )

    def adopt(
        self,
        records: Iterable[ApplicationRecord],
        sleep_orders: Mapping[str, SleepOrder],
        activation: Activation | None,
        now: float,
    ) -> None:
        """Take over what an earlier agent left.

        The last activity of each model is unknown after a restart, so its idle time starts now.

        Args:
            records: The applications that it made.
            sleep_orders: By application: what it ordered last.
            activation: The latest one; None: there was none.
            now: Seconds since the epoch.
        """
        for record in records:
            self.applications.adopted(record, sleep_orders.get(record.name, SleepOrder()), now)
            self.usage.requested(record.model, now)
        if activation is not None:
            self.activation = activation
            for name in self.applications.names() & set(serving(activation.models).values()):
                self.applications.joined(name)

    def ingresses_reported(self, update: ReportUpdate[IngressReport], now: float) -> None:
        """Ingress replicas have reported what they use."""
        self.usage.observe(update, now)
        self.applications.ingresses_reported(update.changed.values())

    def planned(self, snapshot: Snapshot, models: Models, now: float) -> Activation | None:
        """A plan was made from the situation of this moment: note what follows from it.

        Args:
            snapshot: What was planned for.
            models: The activation of each model or pinned revision.
            now: Seconds since the epoch.

        Returns:
            The new activation, to be published; None: the latest one still holds.
        """
        self.usage.keep_only(models.keys())
        self.failures.forget_unwanted(snapshot)
        self._note_cold_starts(snapshot, models)
        activation = successor(self.activation, models)
        if activation is None:
            return None
        before, after = set(serving(self.activation.models).values()), set(serving(models).values())
        known = self.applications.names()
        for name in (before - after) & known:
            self.applications.left(name, activation.sequence, now)
        for name in (after - before) & known:
            self.applications.joined(name)
        self.activation = activation
        return activation

    def _note_cold_starts(self, snapshot: Snapshot, models: Models) -> None:
        for name, model in models.items():
            state = self.applications.state(model.application)
            cold_start = cold_start_of(state) if state is not None else None
            if cold_start is not None:
                self._cold_starts[name] = cold_start
        for name in [name for name in self._cold_starts if name not in snapshot.deployable]:
            del self._cold_starts[name]

    # -- queries -----------------------------------------------------------------------------------

    def situation(self, snapshot: Snapshot, *, now: float, time_of_day: float, free: Resources) -> Situation:
        """What a plan is made from. It does not change when the ledger does.

        Args:
            snapshot: The active one.
            now: Seconds since the epoch, on the clock of all that the ledger was told.
            time_of_day: The same moment on the machine's clock.
            free: Resources of the cluster that are free; may be empty while no application sleeps.
        """
        return Situation(
            now=now,
            time_of_day=time_of_day,
            snapshot=snapshot,
            applications=self.applications.as_planned_from(self.usage.in_use(now), now, self.drain_s),
            serving=MappingProxyType(serving(self.activation.models)),
            in_flight=MappingProxyType(self.usage.in_flight(now)),
            last_activity=MappingProxyType(self.usage.last_activity(now)),
            asked=MappingProxyType(self.usage.asked()),
            failures=self.failures.by_application(),
            ingress_sequence=self.usage.ingress_sequence(now),
            free=free,
            start_limits=self.start_limits,
        )

    def cold_starts(self) -> Mapping[str, status_pb2.ColdStart]:
        """The latest start from zero, by model or pinned revision."""
        return MappingProxyType(dict(self._cold_starts))
