from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, cast

import pytest

from controlplane.catalog.domain import Head
from controlplane.commit_feed import CommitFeed
from controlplane.errors import Reason, Unavailable
from controlplane.fleet.shared_database import CLAIMS_PER_WRITE, SharedDatabase, Sharing, SharingSettings
from controlplane.fleet.state import FleetState
from controlplane.store.fleet.reports import FleetReading
from controlplane.store.fleet.tables import FleetTables
from tests.unit.controlplane.fleet_world import head


class Tables:
    """Shared tables without data planes, which count what is done with them."""

    def __init__(self) -> None:
        self.looks = 0
        self.claims: list[list[str]] = []
        """Data planes whose streams were numbered, by transaction."""
        self.fails = False

    async def claim(self, data_plane_ids: Collection[str], replica_uid: str) -> Mapping[str, int]:
        await asyncio.sleep(0)
        if self.fails:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the test says so")
        self.claims.append(list(data_plane_ids))
        return {data_plane_id: 1000 * len(self.claims) for data_plane_id in data_plane_ids}

    async def changes_since(self, known: Mapping[str, int], lease_s: float) -> FleetReading:
        self.looks += 1
        await asyncio.sleep(0)
        return FleetReading(changes=(), ids=frozenset())


def shared(tables: Tables, commits: CommitFeed, newest: Head) -> SharedDatabase:
    async def read_head() -> Head:
        return newest

    sharing = Sharing(
        tables=cast(FleetTables, cast(Any, tables)),
        read_head=read_head,
        commits=commits,
        replica_uid="this",
        settings=SharingSettings(),
    )
    return SharedDatabase(FleetState(head=head(5), shares_statuses=True), sharing)


async def test_a_commit_of_another_control_plane_is_announced() -> None:
    commits = CommitFeed()
    announced: list[Head] = []
    commits.subscribe(announced.append)
    await shared(Tables(), commits, head(6)).catch_up()
    assert announced == [head(6)]


async def test_many_callers_at_the_same_time_need_two_looks() -> None:
    tables = Tables()
    database = shared(tables, CommitFeed(), head(5))
    await asyncio.gather(*(database.catch_up() for _ in range(1000)))
    assert tables.looks == 2
    await database.catch_up()
    assert tables.looks == 3


async def test_a_fleet_that_connects_at_once_is_numbered_in_few_transactions() -> None:
    tables = Tables()
    database = shared(tables, CommitFeed(), head(5))
    await asyncio.gather(*(database.claim(f"dp-{number}") for number in range(500)))
    assert sorted(name for write in tables.claims for name in write) == sorted(f"dp-{number}" for number in range(500))
    assert max(map(len, tables.claims)) <= CLAIMS_PER_WRITE
    assert len(tables.claims) <= 4


async def test_two_streams_of_a_data_plane_get_two_numbers_in_their_order() -> None:
    database = shared(Tables(), CommitFeed(), head(5))
    first, other, second = await asyncio.gather(database.claim("dp"), database.claim("other"), database.claim("dp"))
    assert first == other
    assert second > first


async def test_a_database_that_fails_is_told_to_those_who_wait_and_asked_again_by_the_next() -> None:
    tables = Tables()
    database = shared(tables, CommitFeed(), head(5))
    tables.fails = True
    with pytest.raises(Unavailable):
        await database.claim("dp")
    tables.fails = False
    assert await database.claim("dp") == 1000


async def test_a_caller_that_is_gone_holds_up_no_other() -> None:
    database = shared(Tables(), CommitFeed(), head(5))
    gone, waiting = asyncio.create_task(database.claim("a")), asyncio.create_task(database.claim("b"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await waiting == 1000
