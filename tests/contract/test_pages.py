"""Pages of lists and snapshots: stable, bounded, and bound to their request."""

from __future__ import annotations

import pytest

from broadsheet.v1 import registry_service_pb2, snapshot_service_pb2
from controlplane import errors
from tests.registry_world import NO_CONTEXT, World, spec


async def test_list_models_is_stable_under_concurrent_inserts_and_deletes(world: World) -> None:
    for index in range(0, 20, 2):
        await world.register_model(f"m{index:02}")
    seen: list[str] = []
    token = ""
    for step in range(5):
        request = registry_service_pb2.ListModelsRequest(page_size=2, page_token=token)
        answer = await world.registry.ListModels(request, NO_CONTEXT)
        seen += [model.name for model in answer.models]
        token = answer.next_page_token
        # A new model before the end of the page must not appear, and a deleted one neither.
        await world.register_model(f"m{step * 2 + 1:02}")
        if step == 1:
            await world.delete_model("m18")
    assert seen == [f"models/m{index:02}" for index in range(0, 20, 2) if index != 18]
    assert token == ""


async def test_lists_page_to_their_end(world: World) -> None:
    for index in range(5):
        await world.register_model(f"m{index}")
        await world.register_adapter(f"m{index}", "a")
        await world.register_adapter(f"m{index}", "b")
    adapters = []
    token = ""
    while True:
        listing = registry_service_pb2.ListAdaptersRequest(parent="models/-", page_size=3, page_token=token)
        page = await world.registry.ListAdapters(listing, NO_CONTEXT)
        adapters += [adapter.name for adapter in page.adapters]
        token = page.next_page_token
        if not token:
            break
    assert adapters == [f"models/m{index}/adapters/{adapter}" for index in range(5) for adapter in "ab"]
    item = registry_service_pb2.ListAdaptersRequest(parent="models/m3")
    assert [adapter.name for adapter in (await world.registry.ListAdapters(item, NO_CONTEXT)).adapters] == [
        "models/m3/adapters/a",
        "models/m3/adapters/b",
    ]
    nobody = registry_service_pb2.ListAdaptersRequest(parent="models/nobody")
    with pytest.raises(errors.NotFound):
        await world.registry.ListAdapters(nobody, NO_CONTEXT)


async def test_list_ends_a_page_before_it_is_too_large_to_send(world: World) -> None:
    large = spec(engine={"kind": "KIND_SIMULATED", "args": {"text": "x" * 200_000}})
    for index in range(12):
        await world.register_model(f"m{index:02}", large)
    request = registry_service_pb2.ListModelsRequest(page_size=1000)
    first = await world.registry.ListModels(request, NO_CONTEXT)
    assert 1 < len(first.models) < 12
    assert first.ByteSize() < 4 * 1024 * 1024
    request.page_token = first.next_page_token
    second = await world.registry.ListModels(request, NO_CONTEXT)
    names = [model.name for model in (*first.models, *second.models)]
    assert names == [f"models/m{index:02}" for index in range(12)]


async def test_page_token_of_another_request_is_refused(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    await world.register_adapter("m", "b")
    listing = registry_service_pb2.ListAdaptersRequest(parent="models/m", page_size=1)
    token = (await world.registry.ListAdapters(listing, NO_CONTEXT)).next_page_token
    assert token
    for request in (
        registry_service_pb2.ListAdaptersRequest(parent="models/-", page_size=1, page_token=token),
        registry_service_pb2.ListAdaptersRequest(parent="models/m", page_token=token[:-2]),
        registry_service_pb2.ListAdaptersRequest(parent="models/m", page_token="!"),
    ):
        with pytest.raises(errors.InvalidArgument) as caught:
            await world.registry.ListAdapters(request, NO_CONTEXT)
        assert caught.value.reason == errors.Reason.INVALID_PAGE_TOKEN


async def test_all_fetched_pages_are_of_one_snapshot(world: World) -> None:
    for index in range(5):
        await world.register_model(f"m{index}")
    request = snapshot_service_pb2.FetchSnapshotRequest(page_size=2)
    names: list[str] = []
    positions = set()
    while True:
        answer = await world.snapshots.FetchSnapshot(request, NO_CONTEXT)
        names += [entry.ref.name for entry in answer.entries]
        positions.add(answer.position.SerializeToString(deterministic=True))
        assert answer.entry_count == 5
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
        await world.register_model(f"late{len(names)}")
    assert names == [f"models/m{index}" for index in range(5)]
    assert len(positions) == 1


async def test_fetched_page_ends_at_two_mebibytes(world: World) -> None:
    large = spec(engine={"kind": "KIND_SIMULATED", "args": {"text": "x" * 250_000}})
    for index in range(10):
        await world.register_model(f"m{index}", large)
    request = snapshot_service_pb2.FetchSnapshotRequest(page_size=1000)
    first = await world.snapshots.FetchSnapshot(request, NO_CONTEXT)
    assert len(first.entries) == 8
    request.page_token = first.next_page_token
    second = await world.snapshots.FetchSnapshot(request, NO_CONTEXT)
    assert len(second.entries) == 2
    assert second.next_page_token == ""


async def test_snapshots_are_listed_newest_first(world: World) -> None:
    await world.register_model("m")
    await world.delete_model("m")
    request = snapshot_service_pb2.ListSnapshotsRequest(page_size=2)
    first = await world.snapshots.ListSnapshots(request, NO_CONTEXT)
    request.page_token = first.next_page_token
    second = await world.snapshots.ListSnapshots(request, NO_CONTEXT)
    assert [
        (summary.position.revision, summary.method, summary.resource, summary.entry_count)
        for summary in (*first.snapshots, *second.snapshots)
    ] == [(2, "DeleteModel", "models/m", 0), (1, "RegisterModel", "models/m", 1), (0, "", "", 0)]
    assert second.next_page_token == ""
