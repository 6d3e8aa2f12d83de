"""The statuses that are reported to the control plane."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from broadsheet.v1 import status_pb2
from dataplane.agent import status as resource_status
from dataplane.agent.situation import Phase
from dataplane.agent.status import Statuses, draining_models
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import EngineReport, SleepOrder
from dataplane.snapshot.activation import ModelActivation, State
from dataplane.snapshot.snapshot import Snapshot
from tests import views
from tests.raw import accepted, model, raws
from tests.unit.dataplane.agent.reconciler.situations import application

ADAPTER = views.adapter("m", "a")
SNAPSHOT = views.snapshot(views.model("m", number=3), ADAPTER)


def notable_statuses(
    snapshot: Snapshot,
    activations: Mapping[str, ModelActivation],
    engines: Mapping[str, Mapping[str, EngineReport]],
    draining: frozenset[str],
) -> dict[str, status_pb2.ResourceStatus]:
    return resource_status.notable_statuses(snapshot, activations, engines, draining, {})


def report(
    *, adapters: tuple[str, ...] = (), failed: dict[str, str] | None = None, tried: int = 0, model: str = "models/m"
) -> EngineReport:
    return EngineReport(
        url="http://x",
        in_flight=0,
        adapters=adapters,
        failed_adapters=failed or {},
        reported_at=0,
        start_s=1,
        weights_s=None,
        sleep_order=SleepOrder(),
        model=model,
        adapters_tried=tried,
    )


def test_model_without_activation_is_idle_and_its_adapter_is_left_out() -> None:
    statuses = Statuses().update(SNAPSHOT, notable_statuses(SNAPSHOT, {}, {}, frozenset()), 0)
    for status in statuses.values():
        status.ClearField("update_time")
    assert statuses == {
        "models/m": status_pb2.ResourceStatus(name="models/m", revision_number=3, state=status_pb2.RESOURCE_STATE_IDLE)
    }


def test_model_that_finishes_its_requests_is_draining() -> None:
    statuses = notable_statuses(SNAPSHOT, {}, {}, frozenset({"models/m"}))
    assert statuses["models/m"].state == status_pb2.RESOURCE_STATE_DRAINING


def test_model_drains_while_an_application_runs_that_no_activation_names() -> None:
    running = application(views.model("m"))
    starting = application(views.model("n"), Phase.STARTING)
    assert draining_models([running, starting], set()) == {"models/m"}
    assert draining_models([running, starting], {"models/m"}) == frozenset()


def test_latest_cold_start_stays_with_the_model_when_it_is_idle_again() -> None:
    cold_start = status_pb2.ColdStart()
    cold_start.first_token.FromSeconds(40)
    statuses = resource_status.notable_statuses(
        SNAPSHOT, {}, {}, frozenset(), {"models/m": cold_start, "models/gone": cold_start}
    )
    assert statuses["models/m"].state == status_pb2.RESOURCE_STATE_IDLE
    assert statuses["models/m"].cold_start == cold_start
    assert set(statuses) == {"models/m"}


def test_failed_model_has_its_reason_and_a_bounded_message() -> None:
    failed = ModelActivation(state=State.FAILED, revision_number=3, reason="R", message="x" * 10_000)
    status = notable_statuses(SNAPSHOT, {"models/m": failed}, {}, frozenset())["models/m"]
    assert (status.state, status.reason) == (status_pb2.RESOURCE_STATE_FAILED, "R")
    assert len(status.message) == 2000


def test_every_state_has_its_counterpart_in_the_protocol() -> None:
    for state in State:
        activation = ModelActivation(state=state, revision_number=3)
        status = notable_statuses(SNAPSHOT, {"models/m": activation}, {}, frozenset())["models/m"]
        assert status_pb2.ResourceState.Name(status.state) == f"RESOURCE_STATE_{state.value}"


def test_loaded_adapter_is_ready_and_a_refused_adapter_is_failed() -> None:
    name = engine_adapter_name(ADAPTER)
    loaded = {"app": {"r1": report(adapters=(name,)), "r2": report(adapters=(name,))}}
    status = notable_statuses(SNAPSHOT, {}, loaded, frozenset())[ADAPTER.name]
    assert (status.state, status.ready_replicas) == (status_pb2.RESOURCE_STATE_READY, 2)
    failed = {"app": {"r1": report(failed={name: "ADAPTER_DIGEST_MISMATCH: other: bytes"})}}
    status = notable_statuses(SNAPSHOT, {}, failed, frozenset())[ADAPTER.name]
    assert (status.state, status.reason, status.message) == (
        status_pb2.RESOURCE_STATE_FAILED,
        "ADAPTER_DIGEST_MISMATCH",
        "other: bytes",
    )


def registered_at(catalog_revision: int, *, newest: int = 0) -> Snapshot:
    adapter = views.adapter("m", "a")
    adapter.revision.catalog_revision = catalog_revision
    return views.snapshot(views.model("m"), views.model("n"), adapter, revision=newest or catalog_revision)


@pytest.mark.parametrize(
    ("tried", "state"),
    [
        ({"models/m": 8}, status_pb2.RESOURCE_STATE_DEPLOYING),
        ({"models/m": 9}, None),
        ({"models/m": 12}, None),
        ({"models/m": 0}, None),  # it starts, and has no list of adapters yet
        ({"models/n": 8}, None),
        ({}, None),  # the model is at zero
    ],
)
def test_an_adapter_is_deploying_until_the_running_engines_of_its_model_have_tried_it(
    tried: dict[str, int], state: status_pb2.ResourceState.ValueType | None
) -> None:
    engines = {"app": {model: report(model=model, tried=revision) for model, revision in tried.items()}}
    found = notable_statuses(registered_at(9), {}, engines, frozenset()).get(ADAPTER.name)
    assert (found.state if found else None) == state


def test_an_adapter_is_deploying_until_the_last_replica_has_tried_it() -> None:
    name = engine_adapter_name(ADAPTER)
    engines = {"app": {"r1": report(tried=9, failed={name: "R: m"}), "r2": report(tried=8)}}
    status = notable_statuses(registered_at(9), {}, engines, frozenset())[ADAPTER.name]
    assert status.state == status_pb2.RESOURCE_STATE_DEPLOYING
    engines["app"]["r2"] = report(tried=9)
    status = notable_statuses(registered_at(9), {}, engines, frozenset())[ADAPTER.name]
    assert (status.state, status.reason) == (status_pb2.RESOURCE_STATE_FAILED, "R")


def test_an_adapter_with_the_weights_of_a_failed_revision_is_not_failed_before_it_was_tried() -> None:
    failed = {engine_adapter_name(ADAPTER): "ADAPTER_SOURCE_NOT_FOUND: gone"}
    engines = {"app": {"r1": report(tried=9, failed=failed)}}
    status = notable_statuses(registered_at(10), {}, engines, frozenset())[ADAPTER.name]
    assert status.state == status_pb2.RESOURCE_STATE_DEPLOYING


def test_new_states_of_adapters_are_added_to_the_statuses_as_they_are() -> None:
    statuses = Statuses()
    before = statuses.update(views.snapshot(views.model("m")), {}, 10)
    new = status_pb2.ResourceStatus(name=ADAPTER.name, state=status_pb2.RESOURCE_STATE_DEPLOYING)
    after = statuses.with_adapters({ADAPTER.name: new}, 20)
    assert after == {"models/m": before["models/m"], ADAPTER.name: new}
    assert after[ADAPTER.name].update_time.seconds == 20
    assert ADAPTER.name not in before


def test_quarantined_entries_are_reported_and_idle_again_when_they_are_served() -> None:
    statuses = Statuses()
    good, bad = raws(model("a"), model("b")), raws(model("a"), model("b", uri="s3://x/y"))
    found = statuses.update(accepted(bad), {}, 10)
    assert found["models/b"].state == status_pb2.RESOURCE_STATE_QUARANTINED
    assert found["models/b"].reason == "ENTRY_INVALID"
    again = statuses.update(accepted(good), {}, 20)
    assert {name: status.state for name, status in again.items()} == {
        "models/a": status_pb2.RESOURCE_STATE_IDLE,
        "models/b": status_pb2.RESOURCE_STATE_IDLE,
    }
    assert again["models/a"] is found["models/a"]
    assert set(statuses.update(accepted(good[:1]), {}, 30)) == {"models/a"}


def test_a_quarantined_entry_that_runs_is_reported_as_quarantined() -> None:
    candidate = views.with_candidate(model("a"), model("a", number=2), 100)
    catalog = accepted(raws(candidate, views.pinned(model("a", number=2))))
    ready = {"models/a/revisions/2": ModelActivation(state=State.READY, revision_number=2)}
    found = Statuses().update(catalog, notable_statuses(catalog, ready, {}, frozenset()), 10)
    assert found["models/a/revisions/2"].state == status_pb2.RESOURCE_STATE_QUARANTINED


def test_update_time_is_when_the_state_began() -> None:
    statuses = Statuses()
    ready = {"models/m": ModelActivation(state=State.READY, revision_number=3)}
    for now, activations, expected in ((10, {}, 10), (20, {}, 10), (30, ready, 30), (40, ready, 30), (50, {}, 50)):
        status = statuses.update(SNAPSHOT, notable_statuses(SNAPSHOT, activations, {}, frozenset()), now)["models/m"]
        assert status.update_time.seconds == expected


def test_unchanged_status_is_the_same_message() -> None:
    statuses = Statuses()
    ready = notable_statuses(
        SNAPSHOT, {"models/m": ModelActivation(state=State.READY, revision_number=3)}, {}, frozenset()
    )
    catalog = views.snapshot(views.model("m", number=3), views.model("other"))
    first = dict(statuses.update(catalog, {}, 10))
    second = dict(statuses.update(catalog, ready, 20))
    assert second["models/other"] is first["models/other"]
    assert second["models/m"].state == status_pb2.RESOURCE_STATE_READY
    third = statuses.update(catalog, {}, 30)
    assert third["models/m"].state == status_pb2.RESOURCE_STATE_IDLE
    assert third["models/m"].update_time.seconds == 30
    assert statuses.update(catalog, {}, 40)["models/m"] is third["models/m"]


def test_new_snapshot_adds_and_removes_statuses_and_keeps_times() -> None:
    statuses = Statuses()
    statuses.update(views.snapshot(views.model("stays"), views.model("goes")), {}, 10)
    after = statuses.update(views.snapshot(views.model("stays"), views.model("comes")), {}, 20)
    assert {name: status.update_time.seconds for name, status in after.items()} == {
        "models/stays": 10,
        "models/comes": 20,
    }


def test_adapter_that_is_no_longer_loaded_is_left_out() -> None:
    statuses = Statuses()
    loaded = {"app": {"r1": report(adapters=(engine_adapter_name(ADAPTER),))}}
    assert ADAPTER.name in statuses.update(SNAPSHOT, notable_statuses(SNAPSHOT, {}, loaded, frozenset()), 10)
    assert ADAPTER.name not in statuses.update(SNAPSHOT, {}, 20)


def test_an_engines_words_are_made_fit_for_a_report() -> None:
    failed = ModelActivation(state=State.FAILED, revision_number=3, reason="START_FAILED", message="a\0b \udc80")
    statuses = notable_statuses(SNAPSHOT, {"models/m": failed}, {}, frozenset())
    assert statuses["models/m"].message == "a?b ?"
