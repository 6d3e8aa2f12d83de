"""How answers of the control plane advance or end a wait."""

from __future__ import annotations

from typing import TypeAlias

import pytest

from broadsheet.errors import ServingFailed, ServingTimeout, Unavailable
from broadsheet.serving import DEGRADED_GRACE_S, ServingWait
from broadsheet.types import (
    Adapter,
    AdapterRevision,
    DataPlane,
    DataPlaneResourceStatus,
    Model,
    ModelRevision,
    Phase,
    Position,
    ResourceState,
    ResourceStatus,
)

READY = ResourceState.RESOURCE_STATE_READY
IDLE = ResourceState.RESOURCE_STATE_IDLE
DEPLOYING = ResourceState.RESOURCE_STATE_DEPLOYING
DEGRADED = ResourceState.RESOURCE_STATE_DEGRADED
FAILED = ResourceState.RESOURCE_STATE_FAILED
QUARANTINED = ResourceState.RESOURCE_STATE_QUARANTINED

State: TypeAlias = ResourceState.ValueType


def model(*statuses: tuple[str, State, int], number: int = 2, catalog_revision: int = 5) -> Model:
    return Model(
        name="models/m",
        revision=ModelRevision(number=number),
        catalog_revision=catalog_revision,
        statuses=[
            DataPlaneResourceStatus(
                data_plane=f"dataPlanes/{plane}",
                connected=True,
                status=ResourceStatus(state=state, revision_number=at, reason="WHY", message="because"),
            )
            for plane, state, at in statuses
        ],
    )


def plane(name: str = "a", *, serving: int | None = 5, connected: bool = True) -> DataPlane:
    position = Position(revision=serving) if serving is not None else None
    return DataPlane(name=f"dataPlanes/{name}", connected=connected, serving=position)


def wait(revision: int | None = None) -> ServingWait:
    return ServingWait(revision=revision, timeout_s=60.0, started_s=0.0)


@pytest.mark.parametrize("state", [READY, IDLE])
def test_idle_and_ready_are_served(state: State) -> None:
    assert wait().update(model(("a", state, 2)), [plane()], 1.0).done


def test_idle_is_not_enough_where_ready_is_required() -> None:
    waiting = ServingWait(revision=None, timeout_s=60.0, started_s=0.0, require_ready=True)
    assert not waiting.update(model(("a", READY, 2), ("b", IDLE, 2)), [plane("a"), plane("b")], 1.0).done
    assert waiting.update(model(("a", READY, 2), ("b", READY, 2)), [plane("a"), plane("b")], 2.0).done


@pytest.mark.parametrize(
    ("resource", "planes"),
    [
        pytest.param(model(("a", READY, 2)), [], id="no data plane"),
        pytest.param(model(("a", READY, 2)), [plane(connected=False)], id="none connected"),
        pytest.param(model(("a", READY, 2)), [plane(serving=4)], id="older snapshot"),
        pytest.param(model(("a", READY, 2)), [plane(serving=None)], id="no snapshot"),
        pytest.param(model(("a", READY, 1)), [plane()], id="older model revision"),
        pytest.param(model(("a", DEPLOYING, 2)), [plane()], id="starting"),
        pytest.param(model(), [plane()], id="nothing reported"),
        pytest.param(model(("a", READY, 2)), [plane("a"), plane("b")], id="one of two"),
        pytest.param(model(("a", FAILED, 1)), [plane()], id="what failed was the older revision"),
        pytest.param(model(("a", FAILED, 2)), [plane(serving=4)], id="failed, but of an older snapshot"),
    ],
)
def test_not_served_yet(resource: Model, planes: list[DataPlane]) -> None:
    waiting = wait()
    progress = waiting.update(resource, planes, 1.0)
    assert not progress.done
    assert progress.describe()
    with pytest.raises(ServingTimeout) as caught:
        waiting.raise_if_late(60.0)
    assert caught.value.progress is progress
    assert progress.describe() in str(caught.value)


def test_a_data_plane_that_is_gone_is_not_waited_for() -> None:
    planes = [plane("a"), plane("b", connected=False, serving=1)]
    assert wait().update(model(("a", READY, 2), ("b", FAILED, 2)), planes, 1.0).done


@pytest.mark.parametrize("state", [FAILED, QUARANTINED])
def test_failure_ends_the_wait_with_its_reason(state: State) -> None:
    with pytest.raises(ServingFailed, match="because") as caught:
        wait().update(model(("a", READY, 2), ("b", state, 2)), [plane("a"), plane("b")], 1.0)
    assert (caught.value.reason, caught.value.data_plane, caught.value.resource) == ("WHY", "dataPlanes/b", "models/m")


def test_a_rejected_snapshot_ends_the_wait() -> None:
    rejecting = DataPlane(
        name="dataPlanes/a",
        connected=True,
        serving=Position(revision=4),
        target=Position(revision=5),
        phase=Phase.PHASE_REJECTED,
        reason="BAD_DIGEST",
        message="digest differs",
    )
    with pytest.raises(ServingFailed, match="digest differs") as caught:
        wait().update(model(), [rejecting], 1.0)
    assert caught.value.reason == "BAD_DIGEST"


def test_the_rejection_of_an_older_snapshot_is_ignored() -> None:
    rejecting = DataPlane(
        name="dataPlanes/a", connected=True, target=Position(revision=4), phase=Phase.PHASE_REJECTED, reason="X"
    )
    assert not wait().update(model(), [rejecting], 1.0).done


def test_degraded_at_an_older_revision_is_a_failure_only_when_it_stays() -> None:
    waiting = wait()
    resource, planes = model(("a", DEGRADED, 1)), [plane()]
    waiting.update(resource, planes, 1.0)
    waiting.update(resource, planes, 1.0 + DEGRADED_GRACE_S - 0.1)
    with pytest.raises(ServingFailed, match="DEGRADED"):
        waiting.update(resource, planes, 1.0 + DEGRADED_GRACE_S)


def test_a_recovery_resets_the_grace_of_degraded() -> None:
    waiting = wait()
    waiting.update(model(("a", DEGRADED, 1)), [plane()], 1.0)
    waiting.update(model(("a", DEPLOYING, 2)), [plane()], 5.0)
    assert not waiting.update(model(("a", DEGRADED, 1)), [plane()], 1.0 + DEGRADED_GRACE_S).done


def test_the_awaited_revision_is_the_first_seen_and_a_later_one_counts() -> None:
    waiting = wait()
    waiting.update(model(("a", READY, 1), number=2), [plane()], 1.0)
    assert waiting.revision == 2
    later = model(("a", READY, 3), number=3, catalog_revision=6)
    assert not waiting.update(later, [plane()], 2.0).done
    assert waiting.update(later, [plane(serving=6)], 3.0).done


def test_a_wait_can_name_a_revision() -> None:
    assert not wait(revision=3).update(model(("a", READY, 2)), [plane()], 1.0).done


def test_an_unreported_adapter_is_idle_where_its_snapshot_is() -> None:
    adapter = Adapter(name="models/m/adapters/x", revision=AdapterRevision(number=1), catalog_revision=5)
    assert idle_twice(adapter, plane())
    assert not idle_twice(adapter, plane(serving=4))
    idle = ResourceStatus(state=IDLE)
    adapter.statuses.append(DataPlaneResourceStatus(data_plane="dataPlanes/a", connected=True, status=idle))
    assert idle_twice(adapter, plane())
    assert not idle_twice(adapter, plane(serving=4))
    adapter.statuses[0].status.state = FAILED
    assert not idle_twice(adapter, plane())


def idle_twice(adapter: Adapter, of: DataPlane) -> bool:
    """Whether a wait for an adapter is done when it sees it IDLE for the second time."""
    waiting = wait()
    assert not waiting.update(adapter, [of], 1.0).done
    return waiting.update(adapter, [of], 2.0).done


def test_a_new_adapter_that_a_running_engine_has_still_to_load_is_waited_for() -> None:
    # The data plane reports that it has the snapshot, and a moment later that the engine loads it.
    adapter = Adapter(name="models/m/adapters/x", revision=AdapterRevision(number=1), catalog_revision=5)
    waiting = wait()
    assert not waiting.update(adapter, [plane()], 1.0).done
    loading = ResourceStatus(state=DEPLOYING, revision_number=1)
    adapter.statuses.append(DataPlaneResourceStatus(data_plane="dataPlanes/a", connected=True, status=loading))
    assert not waiting.update(adapter, [plane()], 2.0).done
    loading.state, loading.reason, loading.message = FAILED, "ADAPTER_LOAD_FAILED", "the engine's words"
    adapter.statuses[0].status.CopyFrom(loading)
    with pytest.raises(ServingFailed, match="the engine's words") as caught:
        waiting.update(adapter, [plane()], 3.0)
    assert caught.value.reason == "ADAPTER_LOAD_FAILED"


def test_an_outage_of_the_control_plane_does_not_end_the_wait() -> None:
    waiting = wait()
    with pytest.raises(Unavailable):
        waiting.missed(Unavailable("never was there"))
    waiting.update(model(), [plane()], 1.0)
    waiting.missed(Unavailable("away"))
    waiting.raise_if_late(2.0)


def test_the_deadline_of_a_poll_is_the_time_left_within_bounds() -> None:
    waiting = wait()
    assert waiting.rpc_timeout_s(0.0) == 10.0
    assert waiting.rpc_timeout_s(57.0) == 3.0
    assert waiting.rpc_timeout_s(70.0) == 1.0
