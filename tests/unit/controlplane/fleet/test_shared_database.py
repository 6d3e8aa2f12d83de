from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from controlplane.catalog.domain import Head
from controlplane.commit_feed import CommitFeed
from controlplane.fleet.shared_database import SharedDatabase, Sharing, SharingSettings
from controlplane.fleet.state import FleetState
from controlplane.store.fleet.reports import FleetReading
from controlplane.store.fleet.tables import FleetTables
from tests.unit.controlplane.fleet_world import head


class Tables:
    """Shared tables without data planes, which count the looks at them."""

    def __init__(self) -> None:
        self.looks = 0

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
