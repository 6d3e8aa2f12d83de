"""Enrolment of data planes, on both databases."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2
from sqlalchemy import select

from broadsheet.v1 import enrollment_pb2 as pb
from broadsheet.v1 import fleet_service_pb2
from controlplane import errors
from controlplane.access.enrolled import EnrolledDataPlanes
from controlplane.catalog.audit import EventFilter
from controlplane.catalog.data_planes import enrollment
from controlplane.catalog.data_planes.enrollment import EnrollmentReading
from controlplane.errors import Reason
from controlplane.fleet.fleet import fleet_of
from controlplane.principal import Principal, acting_as
from controlplane.rpc.servicers import FleetServicer
from controlplane.store.backup import backup as store_backup
from controlplane.store.fleet.schema import data_plane_enrollments
from controlplane.store.schema import answered_requests, audit_operations
from controlplane.store.store import Store
from protocol.enrollment import CREDENTIAL_PREFIX, TOKEN_PREFIX, credential_hash
from tests.registry_world import NO_CONTEXT, START, World, open_world

OPERATOR = Principal(name="olga", role="operator", authentication="token")
MINE, OTHERS = f"{CREDENTIAL_PREFIX}mine", f"{CREDENTIAL_PREFIX}others"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Plane:
    """The RPCs of a control plane, and what its authentication knows."""

    store: Store
    enrolled: EnrolledDataPlanes
    fleet: FleetServicer
    clock: Clock

    async def enroll(self, data_plane_id: str = "gpu-1", **fields: Any) -> pb.EnrollDataPlaneResponse:
        with acting_as(OPERATOR):
            request = pb.EnrollDataPlaneRequest(name=f"dataPlanes/{data_plane_id}", **fields)
            return await self.fleet.EnrollDataPlane(request, NO_CONTEXT)

    async def redeem(self, token: str, credential: str = MINE, data_plane_id: str = "gpu-1") -> str:
        """Redeem a token; the reason of the refusal, or empty."""
        request = pb.RedeemEnrollmentRequest(
            name=f"dataPlanes/{data_plane_id}", enrollment_token=token, credential_hash=credential_hash(credential)
        )
        try:
            await self.fleet.RedeemEnrollment(request, NO_CONTEXT)
        except errors.DomainError as error:
            return error.reason
        return ""

    async def remove(self, data_plane_id: str = "gpu-1") -> fleet_service_pb2.DataPlane:
        with acting_as(OPERATOR):
            request = fleet_service_pb2.RemoveDataPlaneRequest(name=f"dataPlanes/{data_plane_id}")
            return (await self.fleet.RemoveDataPlane(request, NO_CONTEXT)).data_plane

    async def admits(self, credential: str = MINE) -> str:
        """The data plane that a credential is for, or the reason why it is refused."""
        try:
            principal = await self.enrolled.principal_of(credential)
        except errors.Unauthenticated as error:
            return error.reason
        assert principal is not None
        return principal.data_plane


async def plane_on(store: Store) -> Plane:
    clock = Clock()
    enrolled = EnrolledDataPlanes(store.enrollments, clock=clock)
    fleet = fleet_of(store, head=await store.head())
    return Plane(store, enrolled, FleetServicer(store, fleet, enrolled), clock)


@pytest.fixture
async def plane(world: World) -> Plane:
    return await plane_on(world.store)


async def test_a_data_plane_exchanges_its_token_once_for_its_own_credential(plane: Plane) -> None:
    made = await plane.enroll()
    assert made.enrollment_token.startswith(TOKEN_PREFIX)
    assert len(made.enrollment_token) == len(TOKEN_PREFIX) + 43
    assert await plane.admits() == "TOKEN_INVALID"
    assert plane.enrolled.bound_ids() == set()
    assert await plane.redeem(made.enrollment_token) == ""
    assert await plane.admits() == "gpu-1"
    assert plane.enrolled.bound_ids() == {"gpu-1"}
    assert await plane.redeem(made.enrollment_token) == "", "the answer was lost"
    assert await plane.redeem(made.enrollment_token, OTHERS) == "ENROLLMENT_TOKEN_SPENT"
    assert await plane.admits(OTHERS) == "TOKEN_INVALID"


async def test_of_two_that_redeem_a_token_at_once_one_wins(plane: Plane) -> None:
    token = (await plane.enroll()).enrollment_token
    credentials = [f"{CREDENTIAL_PREFIX}{number}" for number in range(8)]
    refused = await asyncio.gather(*(plane.redeem(token, credential) for credential in credentials))
    assert sorted(refused) == ["", *["ENROLLMENT_TOKEN_SPENT"] * 7]
    winner = credentials[refused.index("")]
    assert [await plane.admits(credential) for credential in credentials].count("gpu-1") == 1
    assert await plane.admits(winner) == "gpu-1"


async def test_no_secret_is_in_the_database(plane: Plane) -> None:
    request_id = str(uuid.uuid4())
    token = (await plane.enroll(request_id=request_id)).enrollment_token
    await plane.redeem(token)
    repeat = await plane.enroll(request_id=request_id)
    assert (repeat.name, repeat.enrollment_token) == ("dataPlanes/gpu-1", "")
    async with plane.store._begin_read() as connection:
        for table in (data_plane_enrollments, answered_requests, audit_operations):
            rows = (await connection.execute(select(table))).all()
            assert rows
            for value in (value for row in rows for value in row):
                kept = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                assert token.encode() not in kept
                assert MINE.encode() not in kept


async def test_who_enrolled_whom_is_in_the_audit_log(plane: Plane) -> None:
    await plane.enroll(validate_only=True)
    await plane.redeem((await plane.enroll()).enrollment_token)
    await plane.remove()
    events = await plane.store.audit.list(EventFilter(), before=None, limit=10)
    assert [(event.method, event.resource, event.principal.name) for event in reversed(events)] == [
        ("EnrollDataPlane", "dataPlanes/gpu-1", "olga"),
        ("RedeemEnrollment", "dataPlanes/gpu-1", "gpu-1"),
        ("RemoveDataPlane", "dataPlanes/gpu-1", "olga"),
    ]


async def test_a_dry_run_makes_no_token_and_replaces_none(plane: Plane) -> None:
    token = (await plane.enroll()).enrollment_token
    assert (await plane.enroll(validate_only=True)).enrollment_token == ""
    assert await plane.redeem(token) == ""


async def test_the_credential_counts_until_the_token_that_renews_it_is_redeemed(plane: Plane) -> None:
    await plane.redeem((await plane.enroll()).enrollment_token)
    with pytest.raises(errors.AlreadyExists):
        await plane.enroll()
    renewing = (await plane.enroll(renew=True)).enrollment_token
    assert await plane.admits() == "gpu-1"
    assert await plane.redeem(renewing, OTHERS) == ""
    assert (await plane.admits(), await plane.admits(OTHERS)) == ("TOKEN_INVALID", "gpu-1")


async def test_a_newer_token_voids_the_one_before(plane: Plane) -> None:
    first, second = [(await plane.enroll()).enrollment_token for _ in range(2)]
    assert await plane.redeem(first) == "ENROLLMENT_TOKEN_INVALID"
    assert await plane.redeem(second) == ""


async def test_removing_a_data_plane_withdraws_its_credential_and_its_token(plane: Plane) -> None:
    await plane.redeem((await plane.enroll()).enrollment_token)
    waiting = (await plane.enroll(renew=True)).enrollment_token
    assert (await plane.remove()).HasField("enrollment")
    assert (await plane.admits(), await plane.redeem(waiting)) == ("TOKEN_INVALID", "ENROLLMENT_TOKEN_INVALID")
    with pytest.raises(errors.NotFound):
        await plane.remove()


async def test_two_data_planes_cannot_have_one_credential(plane: Plane) -> None:
    await plane.redeem((await plane.enroll()).enrollment_token)
    copied = (await plane.enroll("gpu-2")).enrollment_token
    assert await plane.redeem(copied, MINE, "gpu-2") == "ENROLLMENT_TOKEN_INVALID"
    assert await plane.redeem(copied, OTHERS, "gpu-2") == "", "the token was not spent"


async def test_a_token_lives_as_long_as_it_was_asked_to(plane: Plane) -> None:
    made = await plane.enroll(ttl=duration_pb2.Duration(seconds=60))
    assert 60 <= made.expire_time.ToDatetime(tzinfo=START.tzinfo).timestamp() - START.timestamp() <= 120
    for _ in range(130):
        plane.store.enrollments.now()  # each question moves the clock of this store by a second
    assert await plane.redeem(made.enrollment_token) == "ENROLLMENT_TOKEN_EXPIRED"


async def test_what_is_enrolled_is_listed_before_it_has_connected(plane: Plane) -> None:
    await plane.redeem((await plane.enroll()).enrollment_token)
    await plane.enroll("gpu-2")
    request = fleet_service_pb2.ListDataPlanesRequest(page_size=1)
    listed: list[fleet_service_pb2.DataPlane] = []
    while True:
        page = await plane.fleet.ListDataPlanes(request, NO_CONTEXT)
        listed += page.data_planes
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert [item.name for item in listed] == ["dataPlanes/gpu-1", "dataPlanes/gpu-2"]
    states = [
        (item.enrollment.HasField("enroll_time"), item.enrollment.HasField("token_expire_time")) for item in listed
    ]
    assert states == [(True, False), (False, True)]
    got = await plane.fleet.GetDataPlane(fleet_service_pb2.GetDataPlaneRequest(name="dataPlanes/gpu-2"), NO_CONTEXT)
    assert got.data_plane == listed[1]


async def test_enrolments_are_bounded(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrollment, "ENROLLMENTS_MAX", 2)
    await plane.enroll("a")
    await plane.enroll("b")
    await plane.enroll("a")
    with pytest.raises(errors.ResourceExhausted) as caught:
        await plane.enroll("c")
    assert caught.value.reason is Reason.TOO_MANY_DATA_PLANES


async def test_another_control_plane_knows_a_change_when_it_looks(plane: Plane) -> None:
    other = await plane_on(plane.store)
    token = (await plane.enroll()).enrollment_token
    assert await other.redeem(token) == "", "the first unknown secret makes it look"
    await plane.enrolled.refresh()
    assert await plane.admits() == "gpu-1"
    await plane.remove()
    assert await other.admits() == "gpu-1"
    await other.enrolled.refresh()
    assert await other.admits() == "TOKEN_INVALID"


async def test_a_change_is_read_alone_and_a_removal_elsewhere_is_noticed(plane: Plane) -> None:
    other = await plane_on(plane.store)
    for number in range(5):
        await plane.redeem((await plane.enroll(f"dp-{number}")).enrollment_token, f"{MINE}{number}", f"dp-{number}")
    await other.enrolled.refresh()
    read: list[int] = []
    since = plane.store.enrollments.since

    async def counted(changes: int) -> EnrollmentReading:
        reading = await since(changes)
        read.append(len(reading.changed))
        assert {"dp-1", "dp-4"} <= other.enrolled.bound_ids(), "what counts does so while it is read again"
        return reading

    plane.store.enrollments.since = counted  # type: ignore[method-assign]
    await plane.enroll("dp-3", renew=True)
    await other.enrolled.refresh()
    assert read == [1, 1], "by each of the two"
    # One is removed and another comes: there are as many as before.
    await plane.remove("dp-2")
    await plane.enroll("dp-9")
    read.clear()
    await other.enrolled.refresh()
    assert read == [1, 5]
    assert list(other.enrolled.ids) == list(plane.enrolled.ids) == ["dp-0", "dp-1", "dp-3", "dp-4", "dp-9"]
    assert other.enrolled.bound_ids() == plane.enrolled.bound_ids() == {"dp-0", "dp-1", "dp-3", "dp-4"}
    assert await other.admits(f"{MINE}2") == "TOKEN_INVALID"
    assert await other.admits(f"{MINE}3") == "dp-3"
    await plane.remove("dp-3")
    await plane.enroll("dp-3")
    await other.enrolled.refresh()
    assert await other.admits(f"{MINE}3") == "TOKEN_INVALID", "removed and enrolled again"


async def test_a_control_plane_that_has_not_looked_redeems_no_token_that_was_voided(plane: Plane) -> None:
    other = await plane_on(plane.store)
    replaced = (await plane.enroll("gpu-1")).enrollment_token
    withdrawn = (await plane.enroll("gpu-2")).enrollment_token
    spent = (await plane.enroll("gpu-3")).enrollment_token
    await other.enrolled.refresh()
    await plane.enroll("gpu-1")
    await plane.remove("gpu-2")
    await plane.redeem(spent, OTHERS, "gpu-3")
    assert await other.redeem(replaced) == "ENROLLMENT_TOKEN_INVALID"
    assert await other.redeem(withdrawn, MINE, "gpu-2") == "ENROLLMENT_TOKEN_INVALID"
    assert await other.redeem(spent, MINE, "gpu-3") == "ENROLLMENT_TOKEN_SPENT"


async def test_made_up_secrets_cost_a_look_in_a_second_at_most(plane: Plane) -> None:
    looks = 0
    changes = plane.store.enrollments.changes

    async def counted() -> int:
        nonlocal looks
        looks += 1
        return await changes()

    plane.store.enrollments.changes = counted  # type: ignore[method-assign]
    for number in range(50):
        assert await plane.admits(f"{CREDENTIAL_PREFIX}{number}") == "TOKEN_INVALID"
        assert await plane.redeem(f"{TOKEN_PREFIX}{number}") == "ENROLLMENT_TOKEN_INVALID"
    assert looks == 1
    plane.clock.now_s += 1
    assert await plane.redeem("x" * 1_000_000) == "ENROLLMENT_TOKEN_INVALID"
    assert looks == 1, "what cannot be a token is not looked for"
    assert await plane.redeem("x") == "ENROLLMENT_TOKEN_INVALID"
    assert looks == 2


async def test_a_restored_backup_has_the_credentials_and_no_token_that_waits(store_url: str, tmp_path: Path) -> None:
    file, target = tmp_path / "a.backup", f"sqlite+aiosqlite:///{tmp_path}/target.db"
    async with open_world(store_url, tmp_path) as world:
        plane = await plane_on(world.store)
        await plane.redeem((await plane.enroll()).enrollment_token)
        waiting = (await plane.enroll("gpu-2")).enrollment_token
        await store_backup.backup(store_url, file)
    await store_backup.restore(target, file)
    async with open_world(target, tmp_path) as world:
        plane = await plane_on(world.store)
        assert await plane.admits() == "gpu-1"
        assert await plane.redeem(waiting, OTHERS, "gpu-2") == "ENROLLMENT_TOKEN_EXPIRED"
