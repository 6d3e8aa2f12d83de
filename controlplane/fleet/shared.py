"""Keeps the hubs of several control planes on one database alike: the newest snapshot, and what
data planes have said.

NOTIFY wakes the others within milliseconds of a commit. A notification may be lost with its
connection, so everything is also looked at on a slow timer; nothing relies on being notified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from controlplane.catalog.domain import Head
from controlplane.errors import Unavailable
from controlplane.store.fleet.reports import FleetChange, FleetReport
from controlplane.store.fleet.tables import FleetTables
from controlplane.store.store import Store

_log = structlog.get_logger("controlplane.fleet.shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingSettings:
    """How often control planes look at each other. Seconds."""

    poll_s: float = 2.0
    """Without any notification. Covers one that was lost."""
    pause_s: float = 0.05
    """Between two looks, however many notifications come."""
    heartbeat_s: float = 2.0
    lease_s: float = 10.0
    """A control plane that was not heard of for so long has gone, and the data planes that it had
    are disconnected."""
    retry_s: float = 1.0
    """Wait after the database failed."""


class Follower(Protocol):
    """The part of the hub that is kept up to date."""

    def publish(self, head: Head) -> None:
        """There is a snapshot."""

    @property
    def oldest_in_use(self) -> int | None:
        """The oldest snapshot that it is sending; None: none."""

    def report_numbers(self) -> Mapping[str, int]:
        """What is known of data planes, as `FleetChange.number`."""

    def learn(self, news: Sequence[FleetChange]) -> None:
        """What has changed about data planes."""


class SharedFleet:
    """One control plane's part in it. `run` must be running."""

    def __init__(
        self,
        *,
        tables: FleetTables,
        read_head: Callable[[], Awaitable[Head]],
        replica_uid: str,
        settings: SharingSettings | None = None,
    ) -> None:
        """
        Args:
            tables: Where reports are kept.
            read_head: The newest snapshot in the store.
            replica_uid: Names this process.
            settings: How often to look.
        """
        self._tables = tables
        self._read_head = read_head
        self._replica_uid = replica_uid
        self._settings = settings or SharingSettings()
        self._news = asyncio.Event()
        self._following = asyncio.Lock()
        self._looks_begun = 0

    async def claim(self, data_plane_id: str) -> int:
        """Number a new stream of a data plane.

        Raises:
            Unavailable: the database failed.
        """
        return await self._tables.claim(data_plane_id, self._replica_uid)

    async def put(self, reports: Sequence[FleetReport]) -> None:
        """Tell the others what has changed.

        Raises:
            Unavailable: the database failed.
        """
        await self._tables.put(reports)

    async def catch_up(self, follower: Follower) -> None:
        """Look now: what was committed before this call is known after it.

        Raises:
            Unavailable: the database failed.
        """
        begun = self._looks_begun
        # One at a time, or an older look could overwrite a newer one.
        async with self._following:
            if self._looks_begun > begun:
                # One that began after this call has ended: a thousand callers together need two
                # looks, not a thousand.
                return
            self._looks_begun += 1
            follower.publish(await self._read_head())
            follower.learn(await self._tables.changes_since(follower.report_numbers(), self._settings.lease_s))

    async def run(self, follower: Follower) -> None:
        """Look whenever there may be something new. Ends by being cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(follower))
            group.create_task(self._listen())
            group.create_task(self._beat(follower))

    async def leave(self) -> None:
        """This process ends: say so, as far as the database answers."""
        try:
            await self._tables.leave(self._replica_uid)
        except Unavailable:
            _log.warning("leaving_not_said")

    async def _follow(self, follower: Follower) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.poll_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self.catch_up(follower)
            except Unavailable:
                _log.warning("fleet_not_read", retry_s=self._settings.retry_s)
                await asyncio.sleep(self._settings.retry_s)
            await asyncio.sleep(self._settings.pause_s)

    async def _beat(self, follower: Follower) -> None:
        while True:
            try:
                await self._tables.heartbeat(self._replica_uid, follower.oldest_in_use)
            except Unavailable:
                _log.warning("heartbeat_not_written")
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _listen(self) -> None:
        while True:
            try:
                await self._tables.listen(self._news.set)
            except Exception as error:
                # Whatever the driver raises: the slow poll goes on meanwhile.
                _log.warning("not_listening", error=type(error).__name__, retry_s=self._settings.retry_s)
            await asyncio.sleep(self._settings.retry_s)


def shared_fleet(store: Store, settings: SharingSettings | None = None) -> SharedFleet | None:
    """How this process and others on the store's database keep each other up to date. None: there
    are no others."""
    tables = store.fleet_tables()
    if tables is None:
        return None
    return SharedFleet(
        tables=tables,
        read_head=store.head,
        replica_uid=store.new_uid(),
        settings=settings,
    )
