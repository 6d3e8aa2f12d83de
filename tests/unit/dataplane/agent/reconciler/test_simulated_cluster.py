"""All rules of the reconciler at once, in a simulated cluster."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.agent.desired import application_name, replica_bounds
from dataplane.agent.giving_up import Backoff, Failure, next_failure
from dataplane.agent.reconciler.actions import Delete, Deploy, Rescale, Sleep, Wake
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.situation import Application, Phase, Situation, StartLimits
from dataplane.snapshot.activation import Endpoint, ModelActivation, State
from dataplane.snapshot.snapshot import Snapshot, model_of
from tests import views
from tests.unit.dataplane.agent.reconciler.situations import IDLE_S, NOW, entry, warmed

BACKOFF = Backoff(first_s=10, max_s=100)


@dataclass
class SimulatedApplication:
    entry: snapshot_pb2.ModelEntry
    created_at: float
    ready_at: float | None = None
    failed: bool = False
    deleting: bool = False
    left_sequence: int = 0
    requests: int = 0
    asleep: bool = False
    bounds: bytes = b""


@dataclass
class SimulatedIngress:
    sequence: int = 0
    models: Mapping[str, ModelActivation] = field(default_factory=dict)


class ClusterMachine(RuleBasedStateMachine):
    """A cluster that carries out plans in every order.

    Requests may cause one start at a time. It has two ingress replicas, and two models with two
    specs each, all of which may be pinned. No drain is ever overdue here, so no request may be
    lost.
    """

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.entries = {name: entry(name) for name in ("a", "b")}
        self.pins: dict[str, snapshot_pb2.ModelRevisionEntry] = {}
        self.applications: dict[str, SimulatedApplication] = {}
        self.failures: dict[str, Failure] = {}
        self.last_activity: dict[str, float] = {}
        self.sequence = 0
        self.models: Mapping[str, ModelActivation] = {}
        self.ingresses = [SimulatedIngress(), SimulatedIngress()]
        self.planned_at = 0.0
        self.warm_at_plan: set[str] = set()

    def snapshot(self) -> Snapshot:
        pins = (pin for pin in self.pins.values() if pin.model.removeprefix("models/") in self.entries)
        return views.snapshot(*self.entries.values(), *pins)

    @rule(
        model=st.sampled_from("ab"),
        spec=st.integers(0, 1),
        number=st.integers(1, 9),
        max_replicas=st.integers(1, 2),
        sleeps=st.booleans(),
    )
    def register(self, model: str, spec: int, number: int, max_replicas: int, sleeps: bool) -> None:
        self.entries[model] = entry(model, number=number, args={"start_up_s": spec})
        scaling = self.entries[model].revision.spec.scaling
        scaling.max_replicas = max_replicas
        scaling.idle = model_pb2.Scaling.IDLE_SLEEP if sleeps else model_pb2.Scaling.IDLE_UNSPECIFIED

    @rule(model=st.sampled_from("ab"), spec=st.integers(0, 1), pins=st.booleans())
    def pin(self, model: str, spec: int, pins: bool) -> None:
        pin = views.pinned(entry(model, number=spec + 1, args={"start_up_s": spec}))
        if pins:
            self.pins[pin.name] = pin
        else:
            self.pins.pop(pin.name, None)

    @rule(model=st.sampled_from("ab"), seconds=st.sampled_from([0, 10, 2 * IDLE_S]))
    def warm(self, model: str, seconds: int) -> None:
        if model in self.entries:
            self.entries[model] = warmed(self.now + seconds, self.entries[model])

    @rule(model=st.sampled_from("ab"), is_cold=st.booleans())
    def set_policy(self, model: str, is_cold: bool) -> None:
        if model in self.entries:
            self.entries[model] = copy.deepcopy(self.entries[model])
            self.entries[model].replace_cold = is_cold

    @rule(model=st.sampled_from("ab"))
    def delete(self, model: str) -> None:
        self.entries.pop(model, None)

    @rule(name=st.sampled_from(["a", "b", "a/revisions/1", "b/revisions/2"]), ingress=st.integers(0, 1))
    def request(self, name: str, ingress: int) -> None:
        self.last_activity[f"models/{name}"] = self.now
        activation = self.ingresses[ingress].models.get(f"models/{name}")
        if activation is not None and activation.endpoints:
            assert not self.applications[activation.application].asleep, "a request reached a sleeping application"
            self.applications[activation.application].requests += 1

    @rule(index=st.integers(0, 9))
    def request_ends(self, index: int) -> None:
        busy = [simulated for simulated in self.applications.values() if simulated.requests]
        if busy:
            busy[index % len(busy)].requests -= 1

    @rule(index=st.integers(0, 9), fails=st.booleans())
    def start_ends(self, index: int, fails: bool) -> None:
        starting = [
            (name, simulated)
            for name, simulated in self.applications.items()
            if simulated.ready_at is None and not simulated.failed and not simulated.deleting
        ]
        if starting:
            name, simulated = starting[index % len(starting)]
            if fails:
                simulated.failed = True
                self.failures[name] = next_failure(
                    self.failures.get(name),
                    reason="R",
                    message="",
                    now=self.now,
                    backoff=Backoff(first_s=10, max_s=100),
                )
            else:
                simulated.ready_at = self.now
                self.failures.pop(name, None)

    @rule()
    def deletions_end(self) -> None:
        self.applications = {name: simulated for name, simulated in self.applications.items() if not simulated.deleting}

    @rule(index=st.integers(0, 1))
    def ingress_swaps(self, index: int) -> None:
        self.ingresses[index] = SimulatedIngress(self.sequence, self.models)

    @rule(seconds=st.sampled_from([1, 20, IDLE_S + 1]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def reconcile(self) -> None:
        made = plan(
            Situation(
                now=self.now,
                time_of_day=self.now,
                snapshot=self.snapshot(),
                applications={name: self._observed(name, simulated) for name, simulated in self.applications.items()},
                serving={name: model.application for name, model in self.models.items() if model.endpoints},
                in_flight={},
                last_activity=self.last_activity,
                failures=self.failures,
                ingress_sequence=min(ingress.sequence for ingress in self.ingresses),
                start_limits=StartLimits(total=1, per_caller=1),
            )
        )
        if made.models != self.models:
            self._publish(made.models)
        self.planned_at = self.now
        self.warm_at_plan = {warm.name for warm in self.entries.values() if self.now < warm.warm_until.seconds}
        for action in made.actions:
            if isinstance(action, Deploy):
                assert action.application not in self.applications, "deployed while it exists"
                self.applications[action.application] = SimulatedApplication(action.entry, self.now)
                self.applications[action.application].bounds = replica_bounds(action.entry.revision.spec.scaling)
            elif isinstance(action, Rescale):
                assert not self.applications[action.application].deleting, "scaled while it is deleted"
                self.applications[action.application].bounds = replica_bounds(action.entry.revision.spec.scaling)
            elif isinstance(action, Wake):
                self.applications[action.application].asleep = False
            else:
                simulated = self.applications[action.application]
                assert simulated.requests == 0, f"{action} with a request in it"
                simulated.asleep = simulated.asleep or isinstance(action, Sleep)
                simulated.deleting = isinstance(action, Delete)

    def _publish(self, models: Mapping[str, ModelActivation]) -> None:
        self.sequence += 1
        before = {model.application for model in self.models.values() if model.endpoints}
        after = {model.application for model in models.values() if model.endpoints}
        for name in before - after:
            self.applications[name].left_sequence = self.sequence
        for name in after - before:
            self.applications[name].left_sequence = 0
        self.models = models

    def _observed(self, name: str, simulated: SimulatedApplication) -> Application:
        if simulated.deleting:
            phase = Phase.DELETING
        elif simulated.failed:
            phase = Phase.FAILED
        else:
            phase = Phase.STARTING if simulated.ready_at is None else Phase.RUNNING
        answers = phase is Phase.RUNNING and not simulated.asleep
        return Application(
            name=name,
            model=model_of(simulated.entry.name),
            revision_number=simulated.entry.revision.number,
            phase=phase,
            created_at=simulated.created_at,
            endpoints=(Endpoint(replica_id=name, url="http://x"),) if answers else (),
            ready_at=simulated.ready_at,
            asleep=simulated.asleep,
            replica_bounds=simulated.bounds,
            in_use=simulated.requests,
            left_sequence=simulated.left_sequence,
        )

    @invariant()
    def no_ingress_sends_requests_to_an_application_being_deleted(self) -> None:
        for ingress in self.ingresses:
            for activation in ingress.models.values():
                if activation.endpoints:
                    assert activation.application in self.applications
                    assert not self.applications[activation.application].deleting
                    assert not self.applications[activation.application].asleep

    @invariant()
    def warmed_models_are_active_after_a_plan(self) -> None:
        if self.planned_at == self.now:
            for name in self.warm_at_plan:
                assert self.models[name].state in (State.DEPLOYING, State.READY, State.DEGRADED, State.FAILED)

    def teardown(self) -> None:
        """Without more changes, models in use answer, and all other applications are deleted."""
        wanted = self.snapshot().deployable
        for name in wanted:
            self.last_activity[name] = self.now
        for _ in range(12):
            self.now += 10
            self.reconcile()
            for index in range(2):
                self.ingress_swaps(index)
            for simulated in self.applications.values():
                simulated.requests = 0
                if simulated.ready_at is None and not simulated.failed and not simulated.deleting:
                    simulated.ready_at = self.now
            self.deletions_end()
        assert self.applications.keys() == {application_name(entry) for entry in wanted.values()}
        assert {name: model.state for name, model in self.models.items()} == dict.fromkeys(wanted, State.READY)
        for current in self.entries.values():
            bounds = self.applications[application_name(current)].bounds
            assert bounds == replica_bounds(current.revision.spec.scaling)


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
