"""PostgreSQL alone: several processes on one database, and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.exc import DBAPIError

from broadsheet.v1 import snapshot_service_pb2, status_pb2
from controlplane import errors
from controlplane.fleet.fleet import fleet_of
from controlplane.fleet.progress import Progress
from controlplane.fleet.shared_database import sharing_of
from controlplane.store.databases import database
from controlplane.store.databases import postgres as store_postgres
from controlplane.store.doors import WRITE_ATTEMPTS_MAX
from controlplane.store.fleet.reports import FleetReport
from controlplane.store.schema import metadata
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from tests.contract.test_upkeep import RECORD
from tests.postgres_server import PostgresServer
from tests.registry_world import World, open_world


class Unsettled:
    """The stream of a data plane that serves nothing yet."""

    settled_revision = None
    traffic = None

    def supersede(self) -> None:
        raise AssertionError("there is a single stream")

    def dismiss(self) -> None:
        raise AssertionError("it is not removed")


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """An empty database."""
    return postgres_server.new_database()


async def _admin(url: str) -> asyncpg.Connection:
    """A connection of an administrator, outside the store."""
    parsed = make_url(url)
    return await asyncpg.connect(host=str(parsed.query["host"]), user="postgres", database="postgres")


async def _cut_connections(url: str) -> None:
    admin = await _admin(url)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", make_url(url).database
    )
    await admin.close()


async def _allow_connections(url: str, *, allowed: bool) -> None:
    admin = await _admin(url)
    await admin.execute(f"ALTER DATABASE {make_url(url).database} ALLOW_CONNECTIONS {allowed}")
    await admin.close()
    if not allowed:
        await _cut_connections(url)


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_the_migrations_make_the_schema_of_the_code(url: str) -> None:
    async with database.open_database(url, connections_max=4) as opened, opened.engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_all_text_compares_by_its_bytes(url: str) -> None:
    async with database.open_database(url, connections_max=4) as opened, opened.engine.connect() as connection:
        query = (
            "SELECT table_name, column_name, collation_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type IN ('text', 'character varying')"
        )
        columns = [tuple(row) for row in await connection.exec_driver_sql(query)]
    assert ("entries", "name", "C") in columns
    assert [column for column in columns if column[2] != "C"] == []


async def test_processes_that_start_together_make_one_catalog(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database(migrated=False)
    async with AsyncExitStack() as stack:
        stores = await asyncio.gather(*(stack.enter_async_context(Store.open(url)) for _ in range(5)))
        assert len({(await store.head()).position for store in stores}) == 1


async def test_writers_in_several_processes_share_one_sequence_of_revisions(url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        worlds = [await stack.enter_async_context(open_world(url, tmp_path)) for _ in range(3)]
        answers = await asyncio.gather(
            *(world.register_model(f"m{number}-{index}") for index, world in enumerate(worlds) for number in range(20))
        )
        assert sorted(answer.catalog_revision for answer in answers) == list(range(1, 61))
        for revision in range(61):
            await worlds[revision % 3].check_digest(revision)


async def test_no_request_fails_after_a_restart_of_the_server(url: str, tmp_path: Path) -> None:
    async with open_world(url, tmp_path) as world:
        await world.register_model("m")
        await _cut_connections(url)
        assert (await world.store.models.get("m")).id == "m"
        await _cut_connections(url)
        assert (await world.register_model("n")).catalog_revision == 2


async def test_a_lost_server_is_reported_as_unavailable_and_reconnected(url: str, tmp_path: Path) -> None:
    async with open_world(url, tmp_path) as world:
        await _allow_connections(url, allowed=False)
        for attempt in (world.register_model("m"), world.store.models.get("m")):
            with pytest.raises(errors.Unavailable) as refusal:
                await attempt
            assert refusal.value.reason == errors.Reason.STORE_UNAVAILABLE
            assert "test" not in refusal.value.message
        await _allow_connections(url, allowed=True)
        assert (await world.register_model("m")).catalog_revision == 1


async def test_an_absent_server_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(errors.SetupError, match="PostgreSQL database registry"):
        async with Store.open(f"postgresql+asyncpg://somebody:secret@/registry?host={tmp_path}"):
            pass


async def test_a_write_that_loses_its_connection_before_the_commit_is_retried(url: str, tmp_path: Path) -> None:
    async with open_world(url, tmp_path) as world:
        await world.register_model("m")
        attempts = 0

        async def work(transaction: WriteTransaction) -> None:
            nonlocal attempts
            attempts += 1
            await transaction.models.delete("m")
            if attempts == 1:
                await _cut_connections(url)

        await world.store.write(work, method="DeleteModel", resource="models/m")
        assert (attempts, await world.revision(), await world.entries()) == (2, 2, [])


async def test_a_group_that_loses_its_connection_before_the_commit_is_retried_as_a_whole(
    url: str, tmp_path: Path
) -> None:
    async with open_world(url, tmp_path) as world:
        attempts = 0

        async def work(transaction: WriteTransaction) -> int:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                await _cut_connections(url)
            return transaction.stamp.catalog_revision

        first = asyncio.create_task(world.store.write(work, method="X", resource="x"))
        tasks = [asyncio.create_task(world.register_model(f"m{number}")) for number in range(3)]
        last = asyncio.create_task(world.store.write(work, method="X", resource="x"))
        assert [(await task).catalog_revision for task in tasks] == [1, 2, 3]
        assert (await first, await last, attempts) == (1, 4, 3)
        assert [head.position.revision for head in world.published] == [3, 2, 1]
        await world.check_digest(3)


async def test_a_write_that_loses_its_connection_in_the_commit_is_not_retried(url: str, tmp_path: Path) -> None:
    async with open_world(url, tmp_path) as world:
        with _failing("commit", lost=True) as failures, pytest.raises(errors.Unavailable):
            await world.register_model("m")
        assert len(failures) == 1
        assert await world.revision() == 0


@contextmanager
def _failing(moment: str, *, times: int = 1000, sqlstate: str = "40001", lost: bool = False) -> Iterator[list[str]]:
    """Let the database fail at commit, or when the catalog's row is locked."""
    failures: list[str] = []

    def fail(*arguments: object) -> None:
        if moment != "commit" and "FOR UPDATE" not in str(arguments[2]):
            return
        if len(failures) < times:
            failures.append(moment)
            original = Exception("could not serialize access")
            original.sqlstate = sqlstate  # type: ignore[attr-defined]  # as asyncpg's exceptions have it
            raise DBAPIError("statement", {}, original, connection_invalidated=lost)

    event.listen(Engine, moment, fail)
    try:
        yield failures
    finally:
        event.remove(Engine, moment, fail)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_a_write_that_the_database_aborted_is_retried(url: str, tmp_path: Path, sqlstate: str) -> None:
    async with open_world(url, tmp_path) as world:
        with _failing("before_cursor_execute", times=WRITE_ATTEMPTS_MAX - 1, sqlstate=sqlstate) as failures:
            assert (await world.register_model("m")).catalog_revision == 1
        assert len(failures) == WRITE_ATTEMPTS_MAX - 1
        with _failing("before_cursor_execute", sqlstate=sqlstate) as failures, pytest.raises(errors.Unavailable):
            await world.register_model("n")
        assert len(failures) == WRITE_ATTEMPTS_MAX


async def test_a_write_waits_for_the_lock_for_a_limited_time(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_postgres, "_LOCK_TIMEOUT_MS", 200)
    async with open_world(url, tmp_path) as holder, open_world(url, tmp_path) as waiting:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def work(transaction: WriteTransaction) -> None:
            began.set()
            await go_on.wait()

        holding = asyncio.create_task(holder.store.write(work, method="X", resource="x"))
        await began.wait()
        with pytest.raises(errors.Unavailable):
            await waiting.register_model("m")
        # Reads wait for nothing.
        assert await waiting.revision() == 0
        go_on.set()
        await holding
        assert (await waiting.register_model("m")).catalog_revision == 1


async def test_readers_find_a_connection_while_writers_wait(url: str, tmp_path: Path) -> None:
    async with open_world(url, tmp_path) as holder, Store.open(url, connections_max=4) as store:
        world = World(store, tmp_path)
        began, go_on = asyncio.Event(), asyncio.Event()

        async def work(transaction: WriteTransaction) -> None:
            began.set()
            await go_on.wait()

        holding = asyncio.create_task(holder.store.write(work, method="X", resource="x"))
        await began.wait()
        writing = [asyncio.create_task(world.register_model(f"m{number}")) for number in range(10)]
        async with asyncio.timeout(2):
            await asyncio.gather(*(world.revision() for _ in range(10)))
        go_on.set()
        await holding
        await asyncio.gather(*writing)
        assert await world.revision() == 10
        world.verifier.close()


async def test_a_removed_data_plane_comes_back_as_a_newer_one(url: str) -> None:
    def report(session: int, name: str) -> FleetReport:
        return FleetReport(
            record=RECORD,
            session=session,
            connected=True,
            settled_revision=None,
            replace=False,
            statuses={name: status_pb2.ResourceStatus(name=name)},
        )

    async def remove(transaction: WriteTransaction) -> None:
        await transaction.data_planes.remove(RECORD.id)

    async with Store.open(url) as store:
        tables = store.fleet_tables()
        assert tables is not None
        first = (await tables.claim([RECORD.id], "here"))[RECORD.id]
        await tables.put([report(first, "models/a")])
        (before,) = (await tables.changes_since({}, 10)).changes
        await store.write(remove, method="RemoveDataPlane", resource="dataPlanes/edge")
        assert (await tables.changes_since({}, 10)).ids == frozenset()
        second = (await tables.claim([RECORD.id], "here"))[RECORD.id]
        reading = await tables.changes_since({}, 10)
        assert (reading.changes, reading.ids) == ([], {RECORD.id})
        await tables.put([report(first, "models/late"), report(second, "models/b")])
        # As a control plane reads that has not noticed the removal.
        (after,) = (await tables.changes_since({RECORD.id: before.number}, 10)).changes
        assert second > first
        assert (after.session, after.replace, list(after.statuses)) == (second, True, ["models/b"])


async def test_a_report_that_it_refuses_hides_no_other_from_other_control_planes(url: str) -> None:
    async with Store.open(url) as first, Store.open(url) as second:
        fleets = [fleet_of(store, head=await store.head(), sharing=sharing_of(store)) for store in (first, second)]
        for data_plane_id, address in (("bad", "http://x\0"), ("good-1", "http://x"), ("good-2", "http://x")):
            session = await fleets[0].admission.admit(data_plane_id)
            said = snapshot_service_pb2.Hello(data_plane=data_plane_id, http_address=address)
            fleets[0].state.attach(said, Progress(), Unsettled(), session, now=datetime.now(UTC))
        assert not await fleets[0].writer.flush()
        await fleets[1].database.catch_up()
        assert fleets[1].state.ids == ["good-1", "good-2"]
