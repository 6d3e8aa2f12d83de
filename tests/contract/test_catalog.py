"""The catalog: numbered, immutable, content-addressed snapshots, one for each change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broadsheet.v1 import model_pb2, registry_service_pb2, snapshot_pb2
from controlplane import errors
from tests.adapter_directories import write_adapter
from tests.registry_world import NO_CONTEXT, World, open_world, spec


async def test_new_store_is_at_revision_0_and_empty(world: World) -> None:
    head = await world.store.head()
    assert (head.position.revision, head.entry_count) == (0, 0)
    await world.check_digest(0)
    assert await world.entries() == []


async def test_every_change_makes_the_next_revision_in_commit_order(world: World) -> None:
    results = await asyncio.gather(*(world.register_model(f"m{index}") for index in range(20)))
    assert sorted(result.catalog_revision for result in results) == list(range(1, 21))
    assert sorted(head.position.revision for head in world.published) == list(range(1, 21))
    for result in results:
        commit = await world.store.revisions.commit_at(result.catalog_revision)
        assert (commit.method, commit.resource) == ("RegisterModel", result.model.name)


async def test_published_heads_are_durable_and_match_the_store(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    await world.delete_adapter("m", "a")
    for head in world.published:
        assert (await world.store.revisions.commit_at(head.position.revision)).head == head
    assert world.published[-1] == await world.store.head()


async def test_digest_of_every_revision_is_that_of_its_entries(world: World) -> None:
    await world.register_model("m1")
    await world.register_model("m2")
    await world.register_adapter("m1", "a")
    await world.register_model("m1", card=model_pb2.ModelCard(display_name="other"))
    await world.delete_model("m2")
    await world.delete_model("m1", force=True)
    assert await world.revision() == 6
    for revision in range(7):
        await world.check_digest(revision)
    assert (await world.store.revisions.position_at(6)).digest == (await world.store.revisions.position_at(0)).digest


async def test_snapshot_does_not_change_when_the_catalog_does(world: World) -> None:
    await world.register_model("m1")
    await world.register_adapter("m1", "a")
    before = (await world.entries(2), await world.store.revisions.commit_at(2))
    await world.register_model("m1", spec(scaling={"minReplicas": 2}))
    await world.register_model("m0")
    await world.delete_adapter("m1", "a")
    await world.delete_model("m1")
    assert (await world.entries(2), await world.store.revisions.commit_at(2)) == before


async def test_entry_holds_what_was_registered(world: World, tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "lora", rank=8)
    await world.register_model("m", served_name="org/M", labels={"team": "a"})
    await world.register_adapter("m", "a", directory)
    adapter_entry, model_entry = sorted(await world.entries(), key=lambda entry: entry.type)
    model = snapshot_pb2.ModelEntry.FromString(model_entry.blob)
    adapter = snapshot_pb2.AdapterEntry.FromString(adapter_entry.blob)
    assert (model_entry.type, adapter_entry.type) == ("broadsheet.v1.ModelEntry", "broadsheet.v1.AdapterEntry")
    assert (model.name, model.served_name, dict(model.labels)) == ("models/m", "org/M", {"team": "a"})
    assert (adapter.model, adapter.served_name) == ("models/m", "org/M:a")
    assert adapter.revision.weights.rank == 8
    assert adapter.revision.weights.target_modules == ["q_proj", "v_proj"]
    assert [file.path for file in adapter.revision.weights.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


async def test_same_registration_writes_nothing(world: World) -> None:
    first = await world.register_model("m", labels={"a": "b"})
    await world.register_model("other")
    again = await world.register_model("m", labels={"a": "b"})
    assert (first.created, again.created) == (True, False)
    assert again.model == first.model
    assert (again.catalog_revision, await world.revision()) == (2, 2)
    assert len(world.published) == 2


async def test_an_explicit_default_is_the_same_registration(world: World) -> None:
    await world.register_model("m")
    again = await world.register_model(
        "m", spec(scaling={"maxReplicas": 1}, admission={"queueTimeout": "30s"}), served_name="m"
    )
    assert (again.created, again.catalog_revision) == (False, 1)


async def test_same_adapter_registration_writes_nothing(world: World) -> None:
    await world.register_model("m")
    first = await world.register_adapter("m", "a")
    again = await world.register_adapter("m", "a")
    assert (first.created, again.created) == (True, False)
    assert again.adapter == first.adapter
    assert await world.revision() == 2


async def test_labels_make_a_catalog_revision_and_no_model_revision(world: World) -> None:
    await world.register_model("m")
    changed = await world.register_model("m", labels={"a": "b"}, served_name="other")
    assert not changed.created
    assert (changed.catalog_revision, changed.model.revision.number, changed.model.catalog_revision) == (2, 1, 2)
    assert changed.model.revision.catalog_revision == 1


@pytest.mark.parametrize("change", ["spec", "card"])
async def test_changed_spec_or_card_makes_the_next_model_revision(world: World, change: str) -> None:
    first = await world.register_model("m")
    second = (
        await world.register_model("m", spec(scaling={"minReplicas": 1}))
        if change == "spec"
        else await world.register_model("m", card=model_pb2.ModelCard(license="MIT"))
    )
    assert (second.created, second.model.revision.number) == (True, 2)
    assert second.model.uid == first.model.uid
    assert second.model.create_time == first.model.create_time
    request = registry_service_pb2.ListModelRevisionsRequest(parent="models/m")
    listed = await world.registry.ListModelRevisions(request, NO_CONTEXT)
    assert list(listed.revisions) == [second.model.revision, first.model.revision]


async def test_changed_files_make_the_next_adapter_revision(world: World, tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "lora")
    await world.register_model("m")
    first = await world.register_adapter("m", "a", directory)
    write_adapter(directory, fill=b"\1")
    second = await world.register_adapter("m", "a", directory)
    assert (second.created, second.adapter.revision.number) == (True, 2)
    assert first.adapter.revision.weights.digest != second.adapter.revision.weights.digest


async def test_validate_only_answers_in_full_and_writes_nothing(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")
    before = (await world.store.head(), await world.entries())
    assert (await world.register_model("n", validate_only=True)).catalog_revision == 3
    changed = await world.register_model("m", spec(scaling={"minReplicas": 1}), validate_only=True)
    assert (changed.created, changed.model.revision.number, changed.catalog_revision) == (True, 2, 3)
    assert (await world.register_adapter("m", "b", validate_only=True)).adapter.served_name == "m:b"
    assert await world.delete_adapter("m", "a", validate_only=True) == 3
    assert await world.delete_model("m", force=True, validate_only=True) == 3
    with pytest.raises(errors.FailedPrecondition):
        await world.delete_model("m", validate_only=True)
    assert (await world.store.head(), await world.entries()) == before
    assert len(world.published) == 2


async def test_model_with_adapters_is_deleted_only_by_force_and_in_one_revision(world: World) -> None:
    await world.register_model("m")
    await world.register_model("n")
    for index in range(7):
        await world.register_adapter("m", f"a{index}")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await world.delete_model("m")
    assert caught.value.reason == errors.Reason.MODEL_HAS_ADAPTERS
    assert "7 adapters" in caught.value.message
    assert "models/m/adapters/a0" in caught.value.message
    assert await world.delete_model("m", force=True) == 10
    assert [entry.name for entry in await world.entries()] == ["models/n"]
    await world.check_digest(10)


async def test_deleting_an_unknown_resource_is_not_found(world: World) -> None:
    await world.register_model("m")
    for attempt, reason in (
        (world.delete_model("n"), errors.Reason.MODEL_NOT_FOUND),
        (world.delete_adapter("m", "a"), errors.Reason.ADAPTER_NOT_FOUND),
        (world.delete_adapter("n", "a"), errors.Reason.ADAPTER_NOT_FOUND),
    ):
        with pytest.raises(errors.NotFound) as caught:
            await attempt
        assert caught.value.reason == reason
    assert await world.revision() == 1


@pytest.mark.parametrize("smaller", [{"lora": {"maxRank": 8}}, {"lora": None}])
async def test_a_model_update_that_its_adapters_do_not_fit_is_refused(
    world: World, tmp_path: Path, smaller: dict[str, object]
) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "big", write_adapter(tmp_path / "big", rank=16))
    await world.register_adapter("m", "small", write_adapter(tmp_path / "small", rank=8))
    shrunk = spec(**smaller)
    if smaller["lora"] is None:
        shrunk.ClearField("lora")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await world.register_model("m", shrunk)
    assert caught.value.reason == errors.Reason.ADAPTERS_WOULD_NOT_FIT
    assert "models/m/adapters/big (rank 16)" in caught.value.message
    assert ("small" in caught.value.message) == (smaller["lora"] is None)
    assert await world.revision() == 3


async def test_adapter_needs_a_model_with_lora(world: World) -> None:
    without = spec()
    without.ClearField("lora")
    await world.register_model("m", without)
    with pytest.raises(errors.FailedPrecondition) as refused:
        await world.register_adapter("m", "a")
    assert refused.value.reason == errors.Reason.MODEL_TAKES_NO_ADAPTERS
    with pytest.raises(errors.NotFound) as missing:
        await world.register_adapter("nobody", "a")
    assert missing.value.reason == errors.Reason.MODEL_NOT_FOUND


async def test_base_that_changes_while_the_adapter_is_read_aborts_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.register_model("m")
    read = world.verifier.verify

    async def slow_read(*args: object, **kwargs: object) -> object:
        weights = await read(*args, **kwargs)  # type: ignore[arg-type]
        changed_source = model_pb2.Source(uri="file:///elsewhere")
        await world.register_model("m", spec(source={"uri": changed_source.uri}))
        return weights

    monkeypatch.setattr(world.verifier, "verify", slow_read)
    with pytest.raises(errors.Aborted) as caught:
        await world.register_adapter("m", "a")
    assert caught.value.reason == errors.Reason.CONCURRENT_CHANGE
    assert [entry.name for entry in await world.entries()] == ["models/m"]


async def test_an_entry_that_is_too_large_is_refused(world: World) -> None:
    large = spec(engine={"kind": "KIND_SIMULATED", "args": {"text": "x" * 300_000}})
    with pytest.raises(errors.InvalidArgument) as caught:
        await world.register_model("m", large)
    assert caught.value.reason == errors.Reason.ENTRY_TOO_LARGE
    assert await world.revision() == 0


async def test_catalog_has_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.catalog.snapshot.ENTRIES_MAX", 2)
    await world.register_model("m")
    await world.register_model("n")
    with pytest.raises(errors.ResourceExhausted) as caught:
        await world.register_model("o")
    assert caught.value.reason == errors.Reason.CATALOG_FULL
    await world.register_model("n", labels={"still": "changeable"})
    await world.delete_model("n")


async def test_unknown_revision_is_not_found(world: World) -> None:
    for revision in (1, -1, 2**63 - 1):
        with pytest.raises(errors.NotFound) as caught:
            await world.store.read_entries(revision, after_name="", limit=1)
        assert caught.value.reason == errors.Reason.REVISION_NOT_FOUND


async def test_entries_are_found_by_name_and_without_their_contents(world: World) -> None:
    for model_id in "abc":
        await world.register_model(model_id)
    await world.register_model("b", labels={"later": "yes"})
    await world.delete_model("c")
    for revision in range(6):
        entries = await world.store.read_entries(revision, after_name="", limit=100)
        refs = await world.store.read_refs(revision, after_name="", limit=100)
        assert [(ref.name, ref.type, ref.digest) for ref in refs] == [
            (entry.name, entry.type, entry.digest) for entry in entries
        ]
        assert await world.store.read_refs(revision, after_name="models/a", limit=1) == refs[1:2]
        wanted = ["models/b", "models/c", "models/none"]
        named = await world.store.read_named(revision, wanted)
        assert named == [entry for entry in entries if entry.name in wanted]
    with pytest.raises(errors.NotFound):
        await world.store.read_refs(6, after_name="", limit=1)
    with pytest.raises(errors.NotFound):
        await world.store.read_named(6, ["models/a"])


async def test_reopened_store_keeps_everything(store_url: str, tmp_path: Path) -> None:
    async with open_world(store_url, tmp_path) as world:
        await world.register_model("m", labels={"a": "b"})
        await world.register_adapter("m", "a")
        await world.delete_adapter("m", "a")
        before = (
            await world.store.head(),
            [await world.entries(revision) for revision in range(4)],
            await world.store.models.get("m"),
        )
    async with open_world(store_url, tmp_path) as world:
        after = (
            await world.store.head(),
            [await world.entries(revision) for revision in range(4)],
            await world.store.models.get("m"),
        )
        assert after == before
        assert (await world.register_model("n")).catalog_revision == 4
