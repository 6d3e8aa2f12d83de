"""Ledger and planner together: whatever is reported, in whatever order, no plan is illegal."""

from __future__ import annotations

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.agent.desired import application_name, replica_bounds
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.ledger.reports import REPORT_LIFETIME_S, ReportUpdate
from dataplane.agent.reconciler.actions import Action, Delete, Deploy, Rescale, Sleep, Wake
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.serve_api import ServeState, ServeStatus
from dataplane.relay.messages import ApplicationRecord, SleepOrder
from dataplane.snapshot.activation import State
from dataplane.snapshot.snapshot import Snapshot, model_of
from tests import views
from tests.unit.dataplane.agent.ledger.reporting import NOW, empty, engine, ingress

NAMES = ("m", "n")
IDLE_S = 30


def entry(model: str, spec: int, *, sleeps: bool = False, min_replicas: int = 0) -> snapshot_pb2.ModelEntry:
    made = views.model(model, number=spec + 1, args={"start_up_s": spec})
    scaling = made.revision.spec.scaling
    scaling.downscale_to_zero_delay.seconds = IDLE_S
    scaling.min_replicas = min_replicas
    scaling.idle = model_pb2.Scaling.IDLE_SLEEP if sleeps else model_pb2.Scaling.IDLE_UNSPECIFIED
    return made


APPLICATIONS = sorted(
    application_name(entry(model, spec, sleeps=sleeps))
    for model in NAMES
    for spec in (0, 1)
    for sleeps in (False, True)
)
"""Every application that a plan may make, so that reports come of those too that are not there."""


class AgentMachine(RuleBasedStateMachine):
    """An agent, its ledger, and everything that reports to it."""

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.ledger: Ledger = empty()
        self.entries = {model: entry(model, 0) for model in NAMES}
        self.records: dict[str, ApplicationRecord] = {}
        """What the relay holds."""
        self.orders: dict[str, SleepOrder] = {}
        self.serve: dict[str, ServeStatus] = {}
        self.epoch = 0

    def snapshot(self) -> Snapshot:
        return views.snapshot(*self.entries.values())

    # -- what happens ------------------------------------------------------------------------------

    @rule(model=st.sampled_from(NAMES), spec=st.integers(0, 1), sleeps=st.booleans(), min_replicas=st.integers(0, 2))
    def register(self, model: str, spec: int, sleeps: bool, min_replicas: int) -> None:
        self.entries[model] = entry(model, spec, sleeps=sleeps, min_replicas=min_replicas)

    @rule(model=st.sampled_from(NAMES))
    def delete(self, model: str) -> None:
        self.entries.pop(model, None)

    @rule(model=st.sampled_from(NAMES))
    def wake(self, model: str) -> None:
        self.ledger.usage.requested(f"models/{model}", self.now)

    @rule(name=st.sampled_from(APPLICATIONS), replica=st.sampled_from("12"), follows=st.booleans())
    def engine_reports(self, name: str, replica: str, follows: bool) -> None:
        order = self.orders.get(name, SleepOrder()) if follows else SleepOrder()
        report = engine(reported_at=self.now, sleep_order=order)
        self._engines(ReportUpdate(epoch=str(self.epoch), changed={f"{name}/{replica}": report}))

    @rule(name=st.sampled_from(APPLICATIONS), replica=st.sampled_from("12"))
    def engine_withdraws(self, name: str, replica: str) -> None:
        removed = frozenset({f"{name}/{replica}"})
        self._engines(ReportUpdate(epoch=str(self.epoch), changed={}, removed=removed))

    @rule()
    def relay_restarts(self) -> None:
        self.epoch += 1
        self._engines(ReportUpdate(epoch=str(self.epoch), is_complete=True, changed={}))

    def _engines(self, update: ReportUpdate) -> None:  # type: ignore[type-arg]  # of engines
        self.ledger.applications.engines_reported(update, self.now)

    @rule(in_flight=st.integers(0, 1), behind=st.integers(0, 1))
    def ingress_reports(self, in_flight: int, behind: int) -> None:
        sequence = max(0, self.ledger.activation.sequence - behind)
        report = ingress(in_flight=in_flight, sequence=sequence, reported_at=self.now)
        self.ledger.ingresses_reported(ReportUpdate(epoch="first", changed={"i": report}), self.now)

    @rule(name=st.sampled_from(APPLICATIONS))
    def start_fails(self, name: str) -> None:
        self.ledger.applications.failed(name, reason="R", message="", now=self.now)

    @rule(name=st.sampled_from(APPLICATIONS))
    def replica_is_placed(self, name: str) -> None:
        changed = self.ledger.applications.placed(name)
        if changed is not None:
            self.records[name] = changed

    @rule(name=st.sampled_from(APPLICATIONS), state=st.sampled_from(list(ServeState)))
    def serve_changes(self, name: str, state: ServeState) -> None:
        if name in self.serve:
            self.serve[name] = ServeStatus(state=state, message="words", reason="R")

    @rule(name=st.sampled_from(APPLICATIONS))
    def application_ends(self, name: str) -> None:
        self.serve.pop(name, None)

    @rule(age_s=st.sampled_from([0.0, 0.5, 20.0]))
    def serve_is_observed(self, age_s: float) -> None:
        asked_at = self.now - age_s
        self.ledger.applications.serve_reported(self.serve, asked_at, self.now)
        for name in self.ledger.applications.missing_in(self.serve, asked_at):
            self.records.pop(name, None)
            self.orders.pop(name, None)
            self.ledger.applications.gone(name)

    @rule(seconds=st.sampled_from([1.0, REPORT_LIFETIME_S, IDLE_S + 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def agent_restarts(self) -> None:
        activation = self.ledger.activation
        self.ledger = empty()
        self.ledger.adopt(list(self.records.values()), self.orders, activation, self.now)

    # -- what the agent does -----------------------------------------------------------------------

    @rule(refused=st.booleans())
    def reconcile(self, refused: bool = False) -> None:
        before = copy.deepcopy(self.ledger)
        situation = self.ledger.situation(self.snapshot(), now=self.now, time_of_day=self.now, free={})
        assert self.ledger == before, "a query changes nothing"
        planned = plan(situation)
        self.ledger.planned(self.snapshot(), planned.models, self.now)
        for action in planned.actions:
            self._carry_out(action, refused)

    def _carry_out(self, action: Action, refused: bool) -> None:
        applications, name = self.ledger.applications, action.application
        match action:
            case Deploy():
                self._deploy(action.entry, refused)
            case Rescale():
                state = applications.state(name)
                assert state is not None
                assert applications.rescaled(state.record) is not None
            case Sleep() | Wake():
                self.orders[name] = applications.sleep_ordered(name, asleep=isinstance(action, Sleep))
            case Delete():
                applications.deleted(name)
                self.serve.pop(name, None)

    def _deploy(self, wanted: snapshot_pb2.ModelEntry, refused: bool) -> None:
        name = application_name(wanted)
        record = ApplicationRecord(
            name=name,
            model=model_of(wanted.name),
            revision_number=wanted.revision.number,
            entry=b"",
            replica_bounds=replica_bounds(wanted.revision.spec.scaling),
            secret="s",
            created_at=self.now,
        )
        self.ledger.applications.deployed(record)
        self.records[name] = record
        if refused:
            self.ledger.applications.refused(name, reason="DEPLOY_FAILED", message="", now=self.now)
        else:
            self.serve[name] = ServeStatus(state=ServeState.STARTING, message="")
            self.ledger.applications.taken_on(name, self.now)

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def relay_and_ledger_have_the_same_applications(self) -> None:
        assert self.ledger.applications.names() == self.records.keys()

    def teardown(self) -> None:
        """Without more faults, every requested model answers."""
        for _ in range(8):
            self.now += 101
            for model in self.entries:
                self.wake(model)
            self.reconcile()
            self.serve_is_observed(0.0)
            for name in self.ledger.applications.names():
                if name in self.serve:
                    self.engine_reports(name, "1", follows=True)
        self.reconcile()
        states = {name: model.state for name, model in self.ledger.activation.models.items()}
        assert states == {f"models/{model}": State.READY for model in self.entries}


TestAgent = AgentMachine.TestCase
TestAgent.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
