"""Differences between snapshots, compared with their entries."""

from __future__ import annotations

import dataclasses
import random

import pytest

from broadsheet.v1 import change_pb2, diff_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from tests.registry_world import NO_CONTEXT, World, spec

Kind = change_pb2.ResourceChange


async def diff(world: World, from_revision: int, to_revision: int | None = None) -> list[change_pb2.ResourceChange]:
    request = diff_pb2.DiffSnapshotsRequest(from_revision=from_revision, to_revision=to_revision)
    return list((await world.snapshots.DiffSnapshots(request, NO_CONTEXT)).changes)


def kinds(changes: list[change_pb2.ResourceChange]) -> dict[str, str]:
    return {change.name: Kind.Kind.Name(change.kind).removeprefix("KIND_") for change in changes}


async def test_a_diff_has_added_removed_and_changed_resources_by_field(world: World) -> None:
    await world.register_model("a")
    await world.register_model("b")
    await world.register_model("a", spec(scaling={"maxReplicas": 4}))
    await world.register_adapter("a", "x")
    await world.delete_model("b")
    changes = await diff(world, 2)
    assert kinds(changes) == {"models/a": "CHANGED", "models/a/adapters/x": "ADDED", "models/b": "REMOVED"}
    (field,) = [field for field in changes[0].fields if field.path == "revision.spec.scaling.max_replicas"]
    assert (field.before.number_value, field.after.number_value) == (1, 4)
    # In the other direction.
    assert kinds(await diff(world, 5, 2)) == {
        "models/a": "CHANGED",
        "models/a/adapters/x": "REMOVED",
        "models/b": "ADDED",
    }


async def test_a_change_that_was_reverted_is_no_difference(world: World) -> None:
    await world.register_model("m", labels={"team": "a"})
    before = await world.entries()
    await world.register_model("m", labels={"team": "b"})
    await world.register_model("m", labels={"team": "a"})
    assert await world.entries() == before
    assert await diff(world, 1) == []
    assert await diff(world, 2, 2) == []


async def test_the_diff_of_any_two_snapshots_is_that_of_their_entries(world: World) -> None:
    choices = random.Random(1)
    registered: set[str] = set()
    deleted: set[str] = set()
    for _ in range(40):
        model = choices.choice("abcd")
        if model in deleted:
            await world.registry.UndeleteModel(pb.UndeleteModelRequest(name=f"models/{model}"), NO_CONTEXT)
            deleted.remove(model)
        elif model in registered and choices.random() < 0.3:
            await world.delete_model(model)
            deleted.add(model)
        else:
            await world.register_model(model, spec(scaling={"minReplicas": choices.randrange(3)}))
            registered.add(model)
    newest = await world.revision()
    snapshots = {
        revision: {entry.name: entry.digest for entry in await world.entries(revision)}
        for revision in range(newest + 1)
    }
    for _ in range(60):
        begin, end = choices.randrange(newest + 1), choices.randrange(newest + 1)
        old, new = snapshots[begin], snapshots[end]
        expected = {name: "ADDED" for name in new if name not in old}
        expected |= {name: "REMOVED" for name in old if name not in new}
        expected |= {name: "CHANGED" for name in old if name in new and old[name] != new[name]}
        assert kinds(await diff(world, begin, end)) == expected, (begin, end)
        if begin < end:
            await check_change(world, begin, end)


async def check_change(world: World, begin: int, end: int) -> None:
    """Check that what a data plane is sent leads from one snapshot to the other, also in pages."""
    entries = {entry.name: entry for entry in await world.entries(begin)}
    base = await world.store.revisions.position_at(begin)
    assert await world.store.holds(base)
    after_name = ""
    while page := await world.store.read_changes(base, end, after_name=after_name, limit=2):
        for change in page:
            assert change.name > after_name
            after_name = change.name
            assert change.entry != entries.pop(change.name, None), "it does not differ"
            if change.entry is not None:
                entries[change.name] = change.entry
    assert sorted(entries.values(), key=lambda entry: entry.name) == await world.entries(end)


async def test_a_position_that_is_not_of_this_store_or_not_kept_is_not_held(world: World) -> None:
    await world.register_model("a")
    position = await world.store.revisions.position_at(1)
    assert await world.store.holds(position)
    for other in (
        dataclasses.replace(position, store_uid="another"),
        dataclasses.replace(position, digest=bytes(32)),
        dataclasses.replace(position, revision=2),
        dataclasses.replace(position, revision=1 << 62),
    ):
        assert not await world.store.holds(other)


async def test_all_pages_of_a_diff_are_of_the_same_snapshots(world: World) -> None:
    for name in "abc":
        await world.register_model(name)
    request = diff_pb2.DiffSnapshotsRequest(page_size=2)
    first = await world.snapshots.DiffSnapshots(request, NO_CONTEXT)
    await world.register_model("d")
    request.page_token = first.next_page_token
    second = await world.snapshots.DiffSnapshots(request, NO_CONTEXT)
    assert [change.name for change in (*first.changes, *second.changes)] == ["models/a", "models/b", "models/c"]
    assert (second.to_position.revision, second.next_page_token) == (3, "")


async def test_a_diff_of_an_unknown_revision_is_not_found(world: World) -> None:
    await world.register_model("a")
    for begin, end in ((0, 2), (2, 1), (1 << 62, None)):
        with pytest.raises(errors.NotFound) as caught:
            await diff(world, begin, end)
        assert caught.value.reason == errors.Reason.REVISION_NOT_FOUND
