"""Keeps control planes on one PostgreSQL database alike: the newest snapshot, and the fleet.

NOTIFY wakes the others within milliseconds of a commit or a report. A notification may be lost with
its connection, so each control plane also looks on a slow timer; nothing relies on a notification.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from controlplane.catalog.domain import Head
from controlplane.commit_feed import CommitFeed
from controlplane.errors import Unavailable
from controlplane.fleet.data_plane import Session
from controlplane.store.fleet.reports import FleetChange, FleetReport
from controlplane.store.fleet.tables import FleetTables
from controlplane.store.store import Store

CLAIMS_PER_WRITE = 200
"""Streams that are numbered in a single transaction: a fleet reconnects at the same moment."""

_log = structlog.get_logger("controlplane.fleet.shared_database")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingSettings:
    """How often control planes look at each other. Seconds."""

    poll_s: float = 2.0
    """Between two looks without a notification. Covers a notification that was lost."""
    pause_s: float = 0.05
    """Between two looks at least, however many notifications come."""
    heartbeat_s: float = 2.0
    lease_s: float = 10.0
    """A control plane without a heartbeat for so long is dead, and its data planes disconnected."""
    retry_s: float = 1.0
    """Wait after the database failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What a control plane needs to share a database."""

    tables: FleetTables
    """Where reports are kept."""
    read_head: Callable[[], Awaitable[Head]]
    """Reads the newest snapshot in the store."""
    commits: CommitFeed
    """Where commits of other control planes are announced."""
    replica_uid: str
    """Names this process."""
    settings: SharingSettings


class Follower(Protocol):
    """The part of the fleet's state that other control planes change."""

    def report_numbers(self) -> Mapping[str, int]:
        """`FleetChange.number` of what is known, by data plane id."""

    def sessions(self) -> Mapping[str, Session]:
        """The newest session of each data plane that is known, by id."""

    def learn(self, changes: Sequence[FleetChange]) -> None:
        """Take what has changed about data planes."""

    def forget(self, data_plane_id: str, *, session: Session | None = None) -> None:
        """A data plane is removed, unless it has had another session since."""


class SharedDatabase:
    """A `FleetDatabase` that other control planes use too. `run` must be running."""

    def __init__(self, follower: Follower, sharing: Sharing) -> None:
        """
        Args:
            follower: Learns what other control planes report.
            sharing: What is shared, and how.
        """
        self._follower = follower
        self._tables = sharing.tables
        self._read_head = sharing.read_head
        self._commits = sharing.commits
        self._replica_uid = sharing.replica_uid
        self._settings = sharing.settings
        self._notified = asyncio.Event()
        self._looking = asyncio.Lock()
        self._looks_begun = 0
        self._claims: list[tuple[str, asyncio.Future[Session]]] = []
        """Streams that wait for their number."""
        self._claiming: asyncio.Task[None] | None = None

    async def claim(self, data_plane_id: str) -> Session:
        """Number a new stream of a data plane.

        Raises:
            Unavailable: the database failed.
        """
        claimed: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._claims.append((data_plane_id, claimed))
        if self._claiming is None:
            self._claiming = asyncio.create_task(self._claim_all())
        return await claimed

    async def _claim_all(self) -> None:
        """Number all streams that wait. Those that come meanwhile are next, together."""
        while self._claims:
            together: dict[str, asyncio.Future[Session]] = {}
            later: list[tuple[str, asyncio.Future[Session]]] = []
            for data_plane_id, claimed in self._claims:
                # Two streams of a data plane get two numbers.
                if data_plane_id in together or len(together) == CLAIMS_PER_WRITE:
                    later.append((data_plane_id, claimed))
                else:
                    together[data_plane_id] = claimed
            self._claims = later
            try:
                sessions = await self._tables.claim(together, self._replica_uid)
            except Exception as error:
                for claimed in together.values():
                    _set(claimed, error)
            else:
                for data_plane_id, claimed in together.items():
                    _set(claimed, Session(sessions[data_plane_id]))
        self._claiming = None

    async def put(self, reports: Sequence[FleetReport]) -> None:
        """Write reports, and notify the other control planes.

        Raises:
            Unavailable: the database failed.
        """
        await self._tables.put(reports)

    async def catch_up(self) -> None:
        """Look now: what was committed before this call is known after it.

        Raises:
            Unavailable: the database failed.
        """
        begun = self._looks_begun
        # A single look at a time, or an older look could overwrite a newer one.
        async with self._looking:
            if self._looks_begun > begun:
                # A look that began after this call has ended. So a thousand callers at the same
                # time need two looks, not a thousand.
                return
            self._looks_begun += 1
            self._commits.publish(await self._read_head())
            # What is known before the look has been in the database: a session begins there.
            sessions = self._follower.sessions()
            known = self._follower.report_numbers()
            reading = await self._tables.changes_since(known, self._settings.lease_s)
            self._follower.learn(reading.changes)
            for data_plane_id in sessions.keys() - reading.ids:
                self._follower.forget(data_plane_id, session=sessions[data_plane_id])

    async def run(self, oldest_in_use: Callable[[], int | None]) -> None:
        """Look whenever there may be something new, and send heartbeats. Ends by being cancelled.

        Args:
            oldest_in_use: The oldest catalog revision that a data plane is being sent here; None:
                none is. Other control planes do not purge it.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._listen())
            group.create_task(self._beat(oldest_in_use))

    async def leave(self) -> None:
        """Tell the others that this process ends, if the database answers."""
        try:
            await self._tables.leave(self._replica_uid)
        except Unavailable:
            _log.warning("leave_not_written")

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.poll_s):
                    await self._notified.wait()
            except TimeoutError:
                pass
            self._notified.clear()
            try:
                await self.catch_up()
            except Unavailable:
                _log.warning("fleet_not_read", retry_s=self._settings.retry_s)
                await asyncio.sleep(self._settings.retry_s)
            await asyncio.sleep(self._settings.pause_s)

    async def _beat(self, oldest_in_use: Callable[[], int | None]) -> None:
        while True:
            try:
                await self._tables.heartbeat(self._replica_uid, oldest_in_use())
            except Unavailable:
                _log.warning("heartbeat_not_written")
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _listen(self) -> None:
        while True:
            try:
                await self._tables.listen(self._notified.set)
            except Exception as error:
                # The driver may raise anything; meanwhile the slow timer goes on.
                _log.warning("notifications_lost", error=type(error).__name__, retry_s=self._settings.retry_s)
            await asyncio.sleep(self._settings.retry_s)


def sharing_of(store: Store, settings: SharingSettings | None = None) -> Sharing | None:
    """How to share the store's database; None: no other control plane can use it."""
    tables = store.fleet_tables()
    if tables is None:
        return None
    return Sharing(
        tables=tables,
        read_head=store.head,
        commits=store.commits,
        replica_uid=store.new_uid(),
        settings=settings or SharingSettings(),
    )


def _set(claimed: asyncio.Future[Session], outcome: Session | Exception) -> None:
    """Answer a claim, unless nobody waits for it any more."""
    if claimed.done():
        return
    if isinstance(outcome, Exception):
        claimed.set_exception(outcome)
    else:
        claimed.set_result(outcome)
