"""Both clients against a real control plane."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broadsheet import errors
from broadsheet.aio import AsyncClient
from broadsheet.client import Client
from broadsheet.progress import ServingProgress
from broadsheet.types import DataPlaneOutcome, ModelEntry, ResourceState
from tests.adapter_directories import write_adapter
from tests.stream.client_world import running_control_plane, scripted_data_plane, state

SPEC = {"engine": {"kind": "SIMULATED"}, "lora": {"max_rank": 8}}
IDLE = ResourceState.RESOURCE_STATE_IDLE
DEPLOYING = ResourceState.RESOURCE_STATE_DEPLOYING
READY = ResourceState.RESOURCE_STATE_READY
FAILED = ResourceState.RESOURCE_STATE_FAILED


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with running_control_plane(tmp_path) as address:
        yield address


@pytest.fixture
def client(endpoint: str) -> Iterator[Client]:
    with Client(endpoint) as connected:
        yield connected


def test_the_life_of_a_model(client: Client) -> None:
    first = client.register_model("m", spec=SPEC, card={"display_name": "M"}, labels={"team": "a"})
    assert (first.created, first.catalog_revision, first.model.name) == (True, 1, "models/m")
    again = client.register_model("m", spec=SPEC, card={"display_name": "M"}, labels={"team": "a"})
    assert (again.created, again.catalog_revision) == (False, 1)
    changed = client.register_model("m", spec={**SPEC, "scaling": {"max_replicas": 3}})
    assert (changed.created, changed.model.revision.number) == (True, 2)
    assert client.get_model("m").revision.spec.scaling.max_replicas == 3
    assert [revision.number for revision in client.list_model_revisions("m")] == [2, 1]
    assert client.delete_model("m").catalog_revision == 3
    assert list(client.list_models()) == []
    assert client.get_model("m").HasField("purge_time")
    with pytest.raises(errors.NotFound) as caught:
        client.delete_model("m")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert client.undelete_model("m").catalog_revision == 4
    assert not client.get_model("m").HasField("delete_time")
    assert [model.name for model in client.list_models()] == ["models/m"]


def test_the_life_of_an_adapter(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(tmp_path / "lora")
    monkeypatch.chdir(tmp_path)
    client.register_model("m", spec=SPEC)
    registered = client.register_adapter("m", "a", source="lora", card={"display_name": "A"})
    assert registered.adapter.served_name == "m:a"
    assert registered.adapter.revision.source.uri == f"file://{tmp_path}/lora"
    assert client.register_adapter("m", "a", source=tmp_path / "lora", card={"display_name": "A"}).created is False
    assert client.get_adapter("m/a").revision.weights.rank == 4
    assert [adapter.name for adapter in client.list_adapters()] == ["models/m/adapters/a"]
    assert [adapter.name for adapter in client.list_adapters("m")] == ["models/m/adapters/a"]
    with pytest.raises(errors.FailedPrecondition) as caught:
        client.delete_model("m")
    assert caught.value.reason == "MODEL_HAS_ADAPTERS"
    client.delete_adapter("m/a")
    assert list(client.list_adapters()) == []


def test_validate_only_writes_nothing(client: Client) -> None:
    assert client.register_model("m", spec=SPEC, validate_only=True).created
    assert list(client.list_models()) == []


def test_violations_name_the_field(client: Client) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        client.register_model("m", spec={**SPEC, "scaling": {"min_replicas": 3, "max_replicas": 1}})
    assert [violation.field for violation in caught.value.violations] == ["spec.scaling"]
    with pytest.raises(errors.InvalidArgument) as caught:
        client.get_model("Not An Id")
    assert caught.value.violations[0].field == "name"


def test_a_taken_name_is_already_exists(client: Client) -> None:
    client.register_model("m", spec=SPEC)
    with pytest.raises(errors.AlreadyExists) as caught:
        client.register_model("n", spec=SPEC, served_name="m")
    assert caught.value.reason == "SERVED_NAME_TAKEN"
    assert caught.value.metadata["holder"] == "models/m"


def test_lists_longer_than_a_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broadsheet._connection.paging.PAGE_SIZE", 2)
    for index in range(5):
        client.register_model(f"m{index}", spec=SPEC)
    assert [model.name for model in client.list_models()] == [f"models/m{index}" for index in range(5)]
    assert [snapshot.position.revision for snapshot in client.list_snapshots()] == [5, 4, 3, 2, 1, 0]
    snapshot = client.fetch_snapshot()
    assert snapshot.position.revision == 5
    assert [ModelEntry.FromString(entry.blob).served_name for entry in snapshot.entries] == [f"m{i}" for i in range(5)]
    assert [entry.ref.name for entry in client.fetch_snapshot(1).entries] == ["models/m0"]


def test_lists_are_filtered_and_sorted(client: Client, endpoint: str, tmp_path: Path) -> None:
    for name, env in (("a", "prod"), ("b", "dev"), ("c", "prod")):
        client.register_model(name, spec=SPEC, labels={"env": env})
    client.register_adapter("a", "x", source=write_adapter(tmp_path / "lora"), labels={"env": "prod"})
    listed = client.list_models(filter="labels.env = prod", order_by="create_time desc")
    assert [model.name for model in listed] == ["models/c", "models/a"]
    assert [adapter.name for adapter in client.list_adapters(filter="labels.env:* AND served_name = *x")]
    assert not list(client.list_adapters("a", filter="labels.env = dev", order_by="update_time desc"))
    with scripted_data_plane(endpoint) as plane:
        plane.report(state("models/a", READY), state("models/b", FAILED, reason="OUT_OF_MEMORY"))
        client.wait_for_revision(client.fetch_snapshot().position.revision)
        (failed,) = client.list_models(filter="state = FAILED")
        assert failed.name == "models/b"
        assert [item.status.reason for item in failed.statuses] == ["OUT_OF_MEMORY"]
        assert [adapter.name for adapter in client.list_adapters(filter="state = IDLE")] == ["models/a/adapters/x"]
    assert list(client.list_models(filter="state = FAILED")) == [], "states of a disconnected data plane do not count"


@pytest.mark.parametrize(
    ("asked", "field", "description"),
    [
        ({"filter": "color = red"}, "filter", "got `color`; must be a field: model_id, owner,"),
        ({"filter": "owner = " + "x" * 2048}, "filter", "2048"),
        (
            {"order_by": "color"},
            "order_by",
            "got `color`; must be a field: name, served_name, create_time, update_time",
        ),
        ({"order_by": "name," * 60}, "order_by", "256"),
    ],
)
def test_an_invalid_filter_or_order_is_rejected(
    client: Client, asked: dict[str, str], field: str, description: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        list(client.list_models(**asked))  # type: ignore[arg-type]  # both are text
    (violation,) = caught.value.violations
    assert violation.field == field
    assert description in violation.description


async def test_the_async_client_does_the_same(endpoint: str, tmp_path: Path) -> None:
    async with AsyncClient(endpoint) as client:
        assert (await client.register_model("m", spec=SPEC)).created
        await client.register_adapter("m", "a", source=write_adapter(tmp_path / "lora"))
        assert [model.name async for model in client.list_models()] == ["models/m"]
        assert [adapter.name async for adapter in client.list_adapters("m")] == ["models/m/adapters/a"]
        assert [model.name async for model in client.list_models(filter="model_id != m", order_by="name desc")] == []
        assert [adapter.name async for adapter in client.list_adapters(filter="labels:a", order_by="name desc")] == []
        assert [revision.number async for revision in client.list_model_revisions("m")] == [1]
        assert (await client.get_adapter("m/a")).served_name == "m:a"
        assert len((await client.fetch_snapshot()).entries) == 2
        assert [summary.position.revision async for summary in client.list_snapshots()] == [2, 1, 0]
        assert [plane.name async for plane in client.list_data_planes()] == []
        with pytest.raises(errors.NotFound):
            await client.get_data_plane("local")
        await client.delete_adapter("m/a")
        assert (await client.delete_model("m")).catalog_revision == 4


def test_the_fleet(client: Client, endpoint: str) -> None:
    with scripted_data_plane(endpoint):
        revision = client.register_model("m", spec=SPEC).catalog_revision
        response = client.wait_for_revision(revision, data_planes=["local"], timeout_s=10)
        assert response.active_everywhere
        (plane,) = client.list_data_planes()
        assert (plane.name, plane.connected, plane.serving.revision) == ("dataPlanes/local", True, revision)
    with scripted_data_plane(endpoint, "other", rejects="BAD_DIGEST"):
        response = client.wait_for_revision(revision, data_planes=["other"], timeout_s=10)
        (outcome,) = response.outcomes
        assert (outcome.outcome, outcome.reason) == (DataPlaneOutcome.OUTCOME_REJECTED, "BAD_DIGEST")


def test_waiting_follows_a_model_until_it_is_served(client: Client, endpoint: str) -> None:
    client.register_model("m", spec=SPEC)
    seen: list[ServingProgress] = []

    with scripted_data_plane(endpoint) as plane:

        def on_progress(progress: ServingProgress) -> None:
            seen.append(progress)
            (own,) = progress.data_planes or [None]
            if own is not None and own.snapshot_revision == 1:
                plane.report(state("models/m", DEPLOYING if own.state != DEPLOYING else READY))

        progress = client.wait_until_serving("m", timeout_s=20, on_progress=on_progress)
    assert progress.done
    assert progress is seen[-1]
    assert DEPLOYING in {plane.state for progress in seen for plane in progress.data_planes}


def test_waiting_ends_with_the_reason_of_a_failure(client: Client, endpoint: str) -> None:
    client.register_model("m", spec=SPEC)
    with scripted_data_plane(endpoint) as plane:
        client.wait_for_revision(1, data_planes=["local"], timeout_s=10)
        plane.report(state("models/m", FAILED, reason="ENGINE_FAILED", message="no such file"))
        with pytest.raises(errors.ServingFailed, match="no such file") as caught:
            client.wait_until_serving("m", timeout_s=20)
    assert (caught.value.reason, caught.value.data_plane) == ("ENGINE_FAILED", "dataPlanes/local")


def test_waiting_ends_when_the_snapshot_is_rejected(client: Client, endpoint: str) -> None:
    client.register_model("m", spec=SPEC)
    with scripted_data_plane(endpoint, rejects="BAD_DIGEST"), pytest.raises(errors.ServingFailed) as caught:
        client.wait_until_serving("m", timeout_s=20)
    assert caught.value.reason == "BAD_DIGEST"


def test_waiting_without_a_data_plane_times_out_and_says_so(client: Client) -> None:
    client.register_model("m", spec=SPEC)
    with pytest.raises(errors.ServingTimeout, match="no data plane has ever connected"):
        client.wait_until_serving("m", timeout_s=0.6)


def test_waiting_for_a_missing_resource_is_not_found(client: Client) -> None:
    with pytest.raises(errors.NotFound):
        client.wait_until_serving("m")
    with pytest.raises(errors.NotFound):
        client.wait_until_serving("m/a")


async def test_the_async_client_waits_too(endpoint: str, tmp_path: Path) -> None:
    async with AsyncClient(endpoint) as client:
        await client.register_model("m", spec=SPEC)
        await client.register_adapter("m", "a", source=write_adapter(tmp_path / "lora"))
        with scripted_data_plane(endpoint) as plane:
            # An adapter that no data plane reports is IDLE where its snapshot is served.
            await client.wait_until_serving("m/a", timeout_s=20)
            plane.report(state("models/m", IDLE))
            progress = await client.wait_until_serving("m", timeout_s=20)
        assert progress.done
        with pytest.raises(errors.ServingTimeout, match="none of the 1 known data planes is connected"):
            await client.wait_until_serving("m", timeout_s=2)


def test_waiting_survives_a_restart_of_the_control_plane(tmp_path: Path) -> None:
    gone = threading.Event()
    with running_control_plane(tmp_path) as endpoint:
        client = Client(endpoint)
        client.register_model("m", spec=SPEC)
        outcome: list[BaseException] = []

        def wait() -> None:
            try:
                client.wait_until_serving("m", timeout_s=4, on_progress=lambda progress: gone.set())
            except errors.BroadsheetError as error:
                outcome.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert gone.wait(timeout=10)
    # The control plane has ended. The wait goes on until its time is over.
    waiting.join()
    client.close()
    assert [type(error) for error in outcome] == [errors.ServingTimeout]
