"""The policy and the state of the fleet's rollout. What is in them, `controlplane.fleet` knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import insert, select, update

from controlplane.store.databases.connection import Statements, WriteConnection
from controlplane.store.fleet.schema import fleet_waves
from controlplane.store.fleet.tables import notify
from controlplane.store.reading import Reading

_ID = 1
"""Of the only row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WavesRecord:
    """The policy and the rollout, as stored."""

    version: int = 0
    """Rises with each change. 0: nothing was ever stored."""
    policy: bytes = b""
    """Serialised FleetPolicy."""
    rollout: bytes = b""
    """As `controlplane.fleet.waves.rollout` writes it. Empty: there was none yet."""
    rollback_revision: int = 0
    """The last catalog revision that rolled the catalog back; 0: none did."""


NOTHING = WavesRecord()


class WavesRecords:
    """Reads the record, and announces the changes that this store commits.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._subscribers: list[Callable[[WavesRecord], None]] = []

    async def get(self) -> WavesRecord:
        """The record as it is now."""
        async with self._reading.begin() as connection:
            return await _read(connection)

    def subscribe(self, subscriber: Callable[[WavesRecord], None]) -> None:
        """Call `subscriber` with each change once it is durable, before the snapshots of the same
        commit are announced. It must not block or raise."""
        self._subscribers.append(subscriber)

    def publish(self, record: WavesRecord) -> None:
        """Announce a record whose commit is durable."""
        for subscriber in self._subscribers:
            subscriber(record)


class WavesChanges:
    """Changes the record within a change of the catalog, whose lock lets one go at a time."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self.written: WavesRecord | None = None
        """The record as the change leaves it; None: it does not touch it."""
        self.is_logged = False
        """Whether the audit log is to have the change."""

    async def get(self) -> WavesRecord:
        """The record as it is now."""
        return self.written or await _read(self._connection)

    async def put(self, record: WavesRecord, *, is_logged: bool) -> WavesRecord:
        """Write a record that was made from `get`. Returns it with its new version.

        Args:
            record: What is to be stored.
            is_logged: Whether the audit log is to have the change as an operation.
        """
        new = replace(record, version=record.version + 1)
        values = {
            "version": new.version,
            "policy": new.policy,
            "rollout": new.rollout,
            "rollback_revision": new.rollback_revision,
        }
        if record.version == 0:
            await self._connection.execute(insert(fleet_waves).values(id=_ID, **values))
        else:
            await self._connection.execute(update(fleet_waves).where(fleet_waves.c.id == _ID).values(**values))
        if self._connection.dialect.name == "postgresql":
            await notify(self._connection)
        self.written = new
        self.is_logged |= is_logged
        return new

    async def note_rollback(self, revision: int) -> None:
        """The change rolls the catalog back, and makes this revision."""
        record = await self.get()
        if record.version:
            await self.put(replace(record, rollback_revision=revision), is_logged=False)


async def _read(connection: Statements) -> WavesRecord:
    row = (await connection.execute(select(fleet_waves))).one_or_none()
    if row is None:
        return NOTHING
    return WavesRecord(
        version=row.version, policy=row.policy, rollout=row.rollout, rollback_revision=row.rollback_revision
    )
