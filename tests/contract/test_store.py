"""The store under failures: atomic writes, cancelled callers, and restarts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from controlplane import errors
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from tests.registry_world import World, open_world, spec
from tests.statements import observed


@contextmanager
def failing_statement(number: int) -> Iterator[list[str]]:
    """Let the statement of this number fail as it does when the disk is full.

    Yields the statements that were run.
    """
    statements: list[str] = []

    def fail(connection: object, statement: str) -> None:
        statements.append(statement)
        if len(statements) == number:
            raise OperationalError(statement, {}, Exception("database or disk is full"))

    with observed(fail):
        yield statements


async def _contents(world: World) -> object:
    revision = await world.revision()
    return (
        await world.store.head(),
        await world.entries(),
        await world.store.models.list(limit=100),
        await world.store.adapters.list(None, limit=100),
        await world.store.revisions.list(before_revision=None, limit=100),
        revision,
    )


@pytest.mark.parametrize("change", ["new", "revision", "adapter", "delete"])
async def test_a_failure_at_any_statement_leaves_nothing_behind(world: World, change: str) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")

    async def attempt() -> None:
        if change == "new":
            await world.register_model("n")
        elif change == "revision":
            await world.register_model("m", spec(scaling={"minReplicas": 1}), served_name="other")
        elif change == "adapter":
            await world.register_adapter("m", "b")
        else:
            await world.delete_model("m", force=True)

    before = await _contents(world)
    published = len(world.published)
    failures = 0
    while True:
        with failing_statement(failures + 1) as statements:
            refusal: errors.Unavailable | None = None
            try:
                await attempt()
            except errors.Unavailable as error:
                refusal = error
        if refusal is None:
            assert len(statements) <= failures
            break
        assert refusal.reason == errors.Reason.STORE_UNAVAILABLE
        assert "disk" not in refusal.message
        failures += 1
        assert len(world.published) == published
        assert await _contents(world) == before
    assert failures > 8
    assert await _contents(world) != before
    assert len(world.published) == published + 1
    await world.check_digest(await world.revision())


async def test_a_failing_commit_leaves_nothing_behind(world: World) -> None:
    def fail(connection: object) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    event.listen(Engine, "commit", fail)
    try:
        with pytest.raises(errors.Unavailable):
            await world.register_model("m")
    finally:
        event.remove(Engine, "commit", fail)
    assert (await world.revision(), world.published) == (0, [])
    assert (await world.register_model("m")).catalog_revision == 1


async def test_a_refusal_after_writes_rolls_them_back(world: World) -> None:
    await world.register_model("m")

    async def work(transaction: WriteTransaction) -> None:
        await transaction.models.delete("m")
        raise errors.model_not_found("models/m")

    with pytest.raises(errors.NotFound):
        await world.store.write(work, method="X", resource="models/m")
    assert [entry.name for entry in await world.entries()] == ["models/m"]


async def test_a_begun_write_completes_when_its_caller_is_cancelled(world: World) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    await world.register_model("m")

    async def work(transaction: WriteTransaction) -> None:
        await transaction.models.delete("m")
        began.set()
        await go_on.wait()

    caller = asyncio.create_task(world.store.write(work, method="DeleteModel", resource="models/m"))
    await began.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    # The next write waits for this one.
    await world.register_model("n")
    assert [head.position.revision for head in world.published] == [1, 2, 3]
    assert [entry.name for entry in await world.entries()] == ["models/n"]


async def test_a_waiting_write_is_cancelled_with_its_caller(world: World) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def work(transaction: WriteTransaction) -> None:
        began.set()
        await go_on.wait()

    first = asyncio.create_task(world.store.write(work, method="X", resource="x"))
    await began.wait()
    waiting = asyncio.create_task(world.register_model("m"))
    await asyncio.sleep(0)
    waiting.cancel()
    go_on.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await world.revision() == 0


async def test_reads_do_not_wait_for_writes(world: World) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    await world.register_model("m")

    async def work(transaction: WriteTransaction) -> None:
        await transaction.models.delete("m")
        began.set()
        await go_on.wait()

    writing = asyncio.create_task(world.store.write(work, method="DeleteModel", resource="models/m"))
    await began.wait()
    async with asyncio.timeout(5):
        assert (await world.store.models.get("m")).id == "m"
        assert [entry.name for entry in await world.entries()] == ["models/m"]
    go_on.set()
    await writing


async def test_a_reopened_store_keeps_its_uid_and_a_new_store_has_its_own(store_url: str, tmp_path: Path) -> None:
    uids = []
    for url in (store_url, store_url, f"sqlite+aiosqlite:///{tmp_path}/other.db"):
        async with Store.open(url) as store:
            uids.append((await store.head()).position.store_uid)
    assert uids[0] == uids[1] != uids[2]


_REGISTERS_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from controlplane import logs
from tests.registry_world import open_world

async def main():
    async with open_world(sys.argv[1], Path(sys.argv[2])) as world:
        for index in range(100_000):
            print((await world.register_model(f"m{index}")).catalog_revision, flush=True)

logs.configure("json")
asyncio.run(main())
"""


async def test_acknowledged_writes_survive_a_killed_process(store_url: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _REGISTERS_UNTIL_KILLED,
        store_url,
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    acknowledged = 0
    async for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 20:
            process.kill()
    await process.wait()
    assert acknowledged >= 20
    async with open_world(store_url, tmp_path) as world:
        assert await world.revision() >= acknowledged
        assert [entry.name for entry in await world.entries(acknowledged)] == sorted(
            f"models/m{index}" for index in range(acknowledged)
        )
        await world.check_digest(await world.revision())
