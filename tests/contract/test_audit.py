"""The audit log: one event for each revision, written with it. It shows no secrets."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from broadsheet.v1 import api_key_pb2, audit_pb2, change_pb2
from controlplane import errors, principal
from controlplane.catalog import audit
from controlplane.principal import Origin, Principal
from controlplane.store.transactions import WriteTransaction
from controlplane.upkeep import audit_retention
from tests.contract.test_store import failing_statement
from tests.registry_world import NO_CONTEXT, START, World, spec

ALICE = Principal(name="alice", role="admin", authentication="token")
BOB = Principal(name="bob", role="publisher", authentication="oidc")
DESK = Origin(address="10.0.0.1:5000", request_id="one-request")
ALL = audit.EventFilter()


async def events(world: World, matching: audit.EventFilter = ALL) -> list[audit.AuditEvent]:
    return list(await world.store.audit.list(matching, before=None, limit=1000))


async def revisions(world: World, **matching: Any) -> list[int]:
    return [event.catalog_revision for event in await events(world, dataclasses.replace(ALL, **matching))]


def fields(change: change_pb2.ResourceChange) -> dict[str, tuple[object, object]]:
    return {
        field.path: (field.before.number_value or field.before.string_value, field.after.number_value)
        for field in change.fields
    }


async def test_an_event_has_author_method_time_address_and_old_values(world: World) -> None:
    await world.register_model("m")
    with principal.acting_as(ALICE), principal.called_from(DESK):
        await world.register_model("m", spec(scaling={"maxReplicas": 4}))
    newest, first = await events(world)
    assert (newest.catalog_revision, newest.method, newest.resource) == (2, "RegisterModel", "models/m")
    assert (newest.principal, newest.origin) == (ALICE, DESK)
    assert newest.create_time > first.create_time >= START
    (change,) = newest.changes
    assert (change.name, change.type, change.kind) == (
        "models/m",
        "broadsheet.v1.ModelEntry",
        change_pb2.ResourceChange.KIND_CHANGED,
    )
    assert fields(change)["revision.spec.scaling.max_replicas"] == (1, 4)
    assert change.before["revision"]["number"] == 1  # type: ignore[index]  # a Struct in a Struct
    assert first.principal == principal.ANONYMOUS
    assert first.changes[0].kind == change_pb2.ResourceChange.KIND_ADDED
    assert not first.changes[0].HasField("before")


async def test_each_revision_has_one_event_and_a_call_without_effect_has_none(world: World) -> None:
    await world.register_model("m")
    await world.register_model("m")
    await world.register_model("m", spec(scaling={"maxReplicas": 3}), validate_only=True)
    await world.register_adapter("m", "a")
    with pytest.raises(errors.NotFound):
        await world.delete_model("nope")
    await world.delete_model("m", force=True)
    assert await revisions(world) == [3, 2, 1]
    assert [event.change_count for event in await events(world)] == [2, 1, 1]


async def test_events_of_concurrent_callers_name_the_right_author(world: World) -> None:
    async def register(who: Principal, number: int) -> None:
        with principal.acting_as(who):
            await world.register_model(f"{who.name}-{number}")

    await asyncio.gather(*(register(who, number) for number in range(5) for who in (ALICE, BOB)))
    assert await revisions(world) == list(range(10, 0, -1))
    assert all(event.resource.startswith(f"models/{event.principal.name}-") for event in await events(world))


async def test_a_failure_to_write_the_event_rolls_the_change_back(world: World) -> None:
    await world.register_model("m")
    with failing_statement(0) as statements:
        await world.register_model("n")
    written = [number for number, text in enumerate(statements, 1) if "INSERT INTO audit" in text]
    assert len(written) == 2
    for number in written:
        with failing_statement(number), pytest.raises(errors.Unavailable):
            await world.register_model("o")
        assert await world.revision() == 2
        assert await revisions(world) == [2, 1]


async def test_deleting_a_model_with_its_adapters_is_one_event_that_names_them(world: World) -> None:
    await world.register_model("m")
    for adapter in "ab":
        await world.register_adapter("m", adapter)
    await world.delete_model("m", force=True)
    (event, *_) = await events(world)
    assert [(change.name, change.kind) for change in event.changes] == [
        (name, change_pb2.ResourceChange.KIND_REMOVED)
        for name in ("models/m", "models/m/adapters/a", "models/m/adapters/b")
    ]


async def test_an_event_of_very_many_changes_counts_all_and_shows_some(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        await world.register_model(f"m{index}", card={"description": "x" * 10_000})
    monkeypatch.setattr(audit, "CHANGES_MAX", 3)
    monkeypatch.setattr(audit, "EVENT_BLOB_BYTES_MAX", 25_000)

    async def work(transaction: WriteTransaction) -> None:
        for index in range(4):
            await transaction.models.delete(f"m{index}")

    await world.store.write(work, method="X", resource="x")
    (event, *_) = await events(world)
    assert event.change_count == 4
    assert [(change.name, change.omitted) for change in event.changes] == [
        ("models/m0", False),
        ("models/m1", False),
        ("models/m2", True),
    ]
    assert event.changes[2].kind == change_pb2.ResourceChange.KIND_REMOVED


async def test_events_are_found_by_each_filter(world: World) -> None:
    with principal.acting_as(ALICE):
        await world.register_model("m")
        await world.register_model("n")
    with principal.acting_as(BOB):
        await world.register_adapter("m", "a")
        await world.delete_model("m", force=True)
    times = {event.catalog_revision: event.create_time for event in await events(world)}
    assert await revisions(world, principal="alice") == [2, 1]
    assert await revisions(world, method="RegisterModel", principal="bob") == []
    assert await revisions(world, resource="models/m") == [4, 1]
    # An event is also found by other resources that the call changed.
    assert await revisions(world, resource="models/m/adapters/a") == [4, 3]
    assert await revisions(world, min_revision=2, max_revision=3) == [3, 2]
    assert await revisions(world, start_time=times[2], end_time=times[3]) == [2]
    assert await revisions(world, start_time=times[4] + timedelta(microseconds=1)) == []


async def test_pages_of_events_are_complete_and_bound_to_their_filter(world: World) -> None:
    for index in range(5):
        await world.register_model(f"m{index}")
    request = audit_pb2.ListAuditEventsRequest(page_size=2, min_revision=1)
    seen = []
    while True:
        page = await world.registry.ListAuditEvents(request, NO_CONTEXT)
        seen += [event.catalog_revision for event in page.events]
        if not page.next_page_token:
            break
        # Events that are added meanwhile are newer, so they do not shift the pages.
        await world.register_model(f"later{len(seen)}")
        request.page_token = page.next_page_token
    assert seen == [5, 4, 3, 2, 1]
    request.method = "DeleteModel"
    with pytest.raises(errors.InvalidArgument) as caught:
        await world.registry.ListAuditEvents(request, NO_CONTEXT)
    assert caught.value.reason == errors.Reason.INVALID_PAGE_TOKEN


async def test_no_secret_reaches_the_log(world: World) -> None:
    await world.register_model(
        "m", spec(engine={"kind": "KIND_SIMULATED", "args": {"hf_token": "hunter2"}}), labels={"api-key": "hunter2"}
    )
    (event,) = await events(world)
    assert "hunter2" not in str(event)
    assert str(event).count("[redacted]") == 2


async def test_old_events_are_deleted_with_their_changes_and_revisions_stay(world: World) -> None:
    for index in range(4):
        await world.register_model(f"m{index}")
    times = {event.catalog_revision: event.create_time for event in await events(world)}
    assert await world.store.delete_audit_events(before=times[4], limit=2) == 2
    assert await revisions(world) == [4, 3]
    assert await world.store.delete_audit_events(before=times[4], limit=2) == 1
    assert await world.store.delete_audit_events(before=times[4], limit=2) == 0
    assert await revisions(world) == [4]
    assert await revisions(world, resource="models/m0") == []
    assert await world.revision() == 4


async def test_events_are_kept_for_the_configured_retention(world: World) -> None:
    for index in range(3):
        await world.register_model(f"m{index}")
    newest = (await events(world))[0].create_time
    now = newest + timedelta(days=30)
    assert await audit_retention.delete_expired(world.store, timedelta(days=31), now=lambda: now) == 0
    assert await audit_retention.delete_expired(world.store, timedelta(days=30), now=lambda: now) == 2
    assert await revisions(world) == [3]


async def test_the_backlog_of_the_retention_is_how_long_the_oldest_event_is_overdue(world: World) -> None:
    now = START
    backlog = audit_retention.Backlog(world.store.audit.oldest_time, timedelta(days=30), now=lambda: now)
    await backlog.look()
    assert backlog.overdue_s() == 0, "there is no event"
    await world.register_model("m0")
    await world.register_model("m1")
    oldest = (await events(world))[-1].create_time
    now = oldest + timedelta(days=30)
    await backlog.look()
    assert backlog.overdue_s() == 0
    now += timedelta(hours=2)
    assert backlog.overdue_s() == 7200, "it grows also while nobody can look"
    await world.store.delete_audit_events(before=now, limit=1)
    await backlog.look()
    second = (await events(world))[-1].create_time
    assert backlog.overdue_s() == 7200 - (second - oldest).total_seconds()


@pytest.mark.parametrize("seconds", [-(1 << 62), 1 << 62])
async def test_an_invalid_time_is_an_invalid_argument(world: World, seconds: int) -> None:
    request = audit_pb2.ListAuditEventsRequest()
    request.start_time.seconds = seconds
    with pytest.raises(errors.InvalidArgument) as caught:
        await world.registry.ListAuditEvents(request, NO_CONTEXT)
    assert [violation.field for violation in caught.value.violations] == ["start_time"]


async def test_nothing_of_an_api_key_reaches_the_log(world: World) -> None:
    limits = api_key_pb2.ApiKeyLimits(allowed_served_names=["*"])
    request = api_key_pb2.CreateApiKeyRequest(api_key_id="k", limits=limits)
    answer = await world.registry.CreateApiKey(request, NO_CONTEXT)
    (entry,) = await world.entries()
    key_hash = api_key_pb2.ApiKeyEntry.FromString(entry.blob).key_hash
    (event,) = await events(world)
    assert event.changes[0].after["key_hash"] == "[redacted]"
    assert answer.key not in str(event)
    assert key_hash.hex() not in str(event)


async def operate(world: World, resource: str) -> None:
    async def work(transaction: WriteTransaction) -> None:
        await transaction.data_planes.remove(resource)

    await world.store.write(work, method="RemoveDataPlane", resource=f"dataPlanes/{resource}")


async def test_operations_are_events_beside_the_revisions(world: World) -> None:
    await operate(world, "a")
    await world.register_model("m")
    with principal.acting_as(ALICE), principal.called_from(DESK):
        await operate(world, "b")
        await operate(world, "c")
    await world.register_model("n")
    assert [event.key for event in await events(world)] == [(2, 0), (1, 2), (1, 1), (1, 0), (0, 1)]
    (event,) = await events(world, dataclasses.replace(ALL, resource="dataPlanes/c"))
    assert (event.principal, event.origin, event.method) == (ALICE, DESK, "RemoveDataPlane")
    assert await revisions(world, method="RemoveDataPlane", principal="alice") == [1, 1]
    assert await world.revision() == 2


async def test_pages_of_events_end_at_operations_too(world: World) -> None:
    await world.register_model("m")
    for resource in ("a", "b", "c"):
        await operate(world, resource)
    await world.register_model("n")
    request = audit_pb2.ListAuditEventsRequest(page_size=1)
    seen = []
    while True:
        page = await world.registry.ListAuditEvents(request, NO_CONTEXT)
        seen += [(event.catalog_revision, event.operation) for event in page.events]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [(2, 0), (1, 3), (1, 2), (1, 1), (1, 0)]


async def test_old_operations_are_deleted_too(world: World) -> None:
    await world.register_model("m")
    await operate(world, "a")
    await operate(world, "b")
    last = (await events(world))[0].create_time
    assert await audit_retention.delete_expired(world.store, timedelta(), now=lambda: last) == 2
    assert [event.key for event in await events(world)] == [(1, 2)]
