"""Group commit: changes that wait together share a transaction, and nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError, OperationalError

from controlplane import errors, principal
from controlplane.catalog import registration
from controlplane.store import groups
from controlplane.store.transactions import WriteTransaction
from tests.contract.test_audit import events
from tests.registry_world import World, open_world, spec
from tests.statements import observed


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine ends no group."""
    monkeypatch.setattr(groups, "TIME_MAX_S", 60.0)


@asynccontextmanager
async def one_group(world: World) -> AsyncIterator[asyncio.Task[None]]:
    """What is begun in the block waits, and forms a group at its end.

    Yields the change that it waits for.
    """
    began, go_on = asyncio.Event(), asyncio.Event()

    async def hold(transaction: WriteTransaction) -> None:
        began.set()
        await go_on.wait()

    holding = asyncio.create_task(world.store.write(hold, method="X", resource="x"))
    await began.wait()
    try:
        yield holding
    finally:
        go_on.set()


async def together(world: World, *calls: Awaitable[Any]) -> Sequence[Any]:
    """The answers and errors of calls that are committed in one group, in this order."""
    async with one_group(world):
        tasks = []
        for call in calls:
            tasks.append(asyncio.ensure_future(call))
            await asyncio.sleep(0)
    return await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def commits() -> Iterator[list[str]]:
    """The commits of transactions that write, from now on."""
    seen: list[str] = []

    def observe(connection: Connection, statement: str) -> None:
        if statement.startswith("UPDATE catalog "):
            seen.append(statement)

    with observed(observe):
        yield seen


async def test_changes_that_wait_share_one_commit_and_each_has_its_own_revision(world: World) -> None:
    with commits() as seen:
        answers = await together(world, *(world.register_model(f"m{number}") for number in range(10)))
    assert len(seen) == 1
    assert [answer.catalog_revision for answer in answers] == list(range(1, 11))
    assert sorted(head.position.revision for head in world.published) == list(range(1, 11))
    listed = await world.store.revisions.list(before_revision=None, limit=20)
    assert [commit.resource for commit in listed[:10]] == [f"models/m{number}" for number in reversed(range(10))]
    for revision in range(11):
        await world.check_digest(revision)
        assert len(await world.entries(revision)) == revision


async def test_a_group_of_new_models_costs_two_reads_each_and_one_insert_for_each_table(world: World) -> None:
    statements: list[str] = []
    with observed(lambda connection, statement: statements.append(statement)):
        await together(world, *(world.register_model(f"m{number}") for number in range(20)))
    kinds = Counter(" ".join(statement.split()[:3]) for statement in statements if "INSERT" in statement)
    assert len(kinds) == 8
    assert set(kinds.values()) == {1}
    # Besides, two transactions begin and lock the catalog, and one writes its row.
    assert len(statements) <= 2 * 20 + 8 + 2 * 3 + 1


async def test_each_change_of_a_group_has_its_own_audit_event(world: World) -> None:
    async def register(caller: str) -> None:
        acting = principal.Principal(name=caller, role="publisher", authentication="token")
        with principal.acting_as(acting), principal.called_from(principal.Origin(address=caller, request_id="")):
            await world.register_model(f"of-{caller}")

    await together(world, *(register(caller) for caller in ("ann", "bob", "eve")))
    logged = await events(world)
    seen = [(item.catalog_revision, item.principal.name, item.origin.address, item.resource) for item in logged]
    callers = ((3, "eve"), (2, "bob"), (1, "ann"))
    assert seen == [(revision, caller, caller, f"models/of-{caller}") for revision, caller in callers]
    assert [[change.name for change in item.changes] for item in logged] == [[item.resource] for item in logged]


async def test_a_refused_change_takes_no_other_of_its_group_with_it(world: World) -> None:
    async def deleted_and_refused(transaction: WriteTransaction) -> None:
        # What it has written is written already when it is refused.
        await transaction.models.delete("a")
        assert await transaction.models.find("a") is None
        raise errors.model_not_found("models/none")

    answers = await together(
        world,
        world.register_model("a"),
        world.register_model("b", served_name="a"),
        world.store.write(deleted_and_refused, method="X", resource="x"),
        world.register_model("c"),
    )
    assert [type(answer) for answer in answers[1:3]] == [errors.AlreadyExists, errors.NotFound]
    assert (answers[0].catalog_revision, answers[3].catalog_revision) == (1, 2)
    assert [entry.name for entry in await world.entries()] == ["models/a", "models/c"]
    await world.check_digest(2)


async def test_changes_of_a_group_see_those_before_them(world: World) -> None:
    answers = await together(
        world,
        world.register_model("m"),
        world.register_model("m", spec(scaling={"minReplicas": 1})),
        world.register_model("n", served_name="m"),
        world.delete_model("m", force=True),
        world.register_model("n", served_name="m"),
    )
    assert [answers[0].model.revision.number, answers[1].model.revision.number] == [1, 2]
    assert isinstance(answers[2], errors.AlreadyExists)
    assert (answers[3], answers[4].catalog_revision) == (3, 4)
    assert [entry.name for entry in await world.entries()] == ["models/n"]
    for revision in range(5):
        await world.check_digest(revision)


async def test_repeats_in_one_group_are_carried_out_once(world: World) -> None:
    request_id = str(uuid.uuid4())
    answers = await together(
        world,
        world.register_model("m", request_id=request_id),
        world.register_model("m", request_id=request_id),
        world.register_model("other", request_id=request_id),
    )
    assert answers[0] == answers[1]
    assert answers[0].created
    assert isinstance(answers[2], errors.InvalidArgument)
    assert await world.revision() == 1


async def test_a_dry_run_in_a_group_leaves_nothing_for_those_after_it(world: World) -> None:
    answers = await together(
        world,
        world.register_model("m", validate_only=True, request_id=str(uuid.uuid4())),
        world.register_model("n", served_name="m"),
    )
    assert [answer.catalog_revision for answer in answers] == [1, 1]
    assert [entry.name for entry in await world.entries()] == ["models/n"]


async def test_a_commit_that_fails_fails_all_of_its_group_and_announces_nothing(world: World) -> None:
    failures: list[str] = []

    def fail(connection: Connection) -> None:
        failures.append("COMMIT")
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    async with one_group(world) as holding:
        tasks = [asyncio.create_task(world.register_model(f"m{number}")) for number in range(5)]
        await asyncio.sleep(0)
        event.listen(Engine, "commit", fail)
    try:
        answers = await asyncio.gather(holding, *tasks, return_exceptions=True)
    finally:
        event.remove(Engine, "commit", fail)
    assert [type(answer) for answer in answers] == [errors.Unavailable] * 6
    assert len(failures) == 2, "that of the held change, and that of the group, which is not tried again"
    assert (await world.revision(), world.published) == (0, [])
    assert (await world.register_model("m0")).catalog_revision == 1


async def test_a_change_that_the_database_refuses_fails_alone(world: World) -> None:
    async def takes_a_name_unchecked(transaction: WriteTransaction) -> None:
        await transaction.served_names.take("models/other", "m0", None)

    answers = await together(
        world,
        world.register_model("m0"),
        world.store.write(takes_a_name_unchecked, method="X", resource="x"),
        world.register_model("m1"),
    )
    assert isinstance(answers[1], IntegrityError)
    assert (answers[0].catalog_revision, answers[2].catalog_revision) == (1, 2)
    assert await world.store.models.list(limit=10) == [await world.store.models.get(name) for name in ("m0", "m1")]


async def test_a_cancelled_caller_takes_only_its_own_change_with_it(world: World) -> None:
    async with one_group(world):
        tasks = [asyncio.create_task(world.register_model(f"m{number}")) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [entry.name for entry in await world.entries()] == ["models/m0", "models/m2"]


async def test_a_caller_that_is_cancelled_during_its_group_harms_none(world: World) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(transaction: WriteTransaction) -> None:
        began.set()
        await go_on.wait()

    async with one_group(world):
        first = asyncio.create_task(world.register_model("m0"))
        await asyncio.sleep(0)
        second = asyncio.create_task(world.store.write(slow, method="X", resource="x"))
        await asyncio.sleep(0)
        third = asyncio.create_task(world.register_model("m1"))
        await asyncio.sleep(0)
    await began.wait()
    first.cancel()
    second.cancel()
    go_on.set()
    assert (await third).catalog_revision == 2
    assert [entry.name for entry in await world.entries()] == ["models/m0", "models/m1"]
    assert sorted(head.position.revision for head in world.published) == [1, 2]


async def test_a_large_change_has_a_commit_of_its_own(world: World) -> None:
    async def nothing(transaction: WriteTransaction) -> int:
        return transaction.head.position.revision

    with commits() as seen:
        answers = await together(
            world,
            world.register_model("m0"),
            world.store.write(nothing, method="X", resource="x", is_large=True),
            world.register_model("m1"),
        )
    assert answers[1] == 1
    assert len(seen) == 2


@pytest.mark.parametrize("bound", ["CHANGES_MAX", "BYTES_MAX", "TIME_MAX_S"])
async def test_a_group_takes_no_more_than_it_may(world: World, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(groups, bound, 1 if bound == "CHANGES_MAX" else 0)
    with commits() as seen:
        answers = await together(world, *(world.register_model(f"m{number}") for number in range(3)))
    assert [answer.catalog_revision for answer in answers] == [1, 2, 3]
    assert len(seen) == 3


_REGISTER_UNTIL_KILLED = """
import asyncio, itertools, sys
from pathlib import Path
from controlplane import logs
from tests.contract.test_audit import events
from tests.registry_world import open_world

async def main():
    async with open_world(sys.argv[1], Path(sys.argv[2])) as world:
        numbers = itertools.count()

        async def client():
            for number in numbers:
                print((await world.register_model(f"m{number}")).catalog_revision, f"models/m{number}", flush=True)

        await asyncio.gather(*(client() for _ in range(32)))

logs.configure("json")
asyncio.run(main())
"""


async def test_a_killed_process_loses_no_acknowledged_change_of_a_group(store_url: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _REGISTER_UNTIL_KILLED, store_url, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    acknowledged: dict[int, str] = {}
    async for line in process.stdout:
        if not line.endswith(b"\n"):
            break
        revision, name = line.decode().split()
        acknowledged[int(revision)] = name
        if len(acknowledged) == 150:
            process.kill()
    await process.wait()
    assert len(acknowledged) >= 150
    async with open_world(store_url, tmp_path) as world:
        newest = await world.revision()
        commits = await world.store.revisions.list(before_revision=None, limit=newest + 1)
        assert [commit.head.position.revision for commit in commits] == list(range(newest, -1, -1))
        resources = {commit.head.position.revision: commit.resource for commit in commits}
        assert {revision: resources.get(revision) for revision in acknowledged} == acknowledged
        assert len(await world.entries()) == newest
        await world.check_digest(newest)


async def test_a_change_sees_a_new_revision_of_what_it_undeletes(world: World) -> None:
    await world.register_model("m")
    await world.delete_model("m")

    async def undelete_with_other_content(transaction: WriteTransaction) -> int:
        deleted = await transaction.models.find_any("m")
        assert deleted is not None
        restored = registration.undeleted(deleted, transaction.stamp)
        revision = dataclasses.replace(restored.revision, number=2)
        await transaction.models.put(dataclasses.replace(restored, revision=revision), deleted)
        found = await transaction.models.find("m")
        return found.revision.number if found is not None else 0

    assert await world.store.write(undelete_with_other_content, method="X", resource="models/m") == 2
