"""Revocations of API keys: a number for each, rising by one, and how they are read in order.

They travel to data planes beside snapshots, so that a key is refused whatever snapshot is served.
Nothing is pruned: a row takes about 150 bytes and is kept as long as the record of its key. A store
has at most as many as a snapshot may have entries.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from controlplane.catalog.domain import Stamp
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.reading import Reading
from controlplane.store.schema import revocations as table
from controlplane.store.times import to_us


class Revocations:
    """The revocations of this store.

    Every method raises errors.Unavailable when the database fails.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def after(self, sequence: int, *, limit: int) -> Sequence[str]:
        """Uids of up to `limit` revoked keys after this sequence, in the order of sequences."""
        query = select(table.c.key_uid).where(table.c.sequence > sequence).order_by(table.c.sequence).limit(limit)
        async with self._reading.begin() as connection:
            return (await connection.execute(query)).scalars().all()

    async def sequence_of(self, key_uid: str) -> int:
        """The sequence of the revocation of a key. 0: it was revoked by a release without them."""
        query = select(table.c.sequence).where(table.c.key_uid == key_uid)
        async with self._reading.begin() as connection:
            return (await connection.execute(query)).scalar_one_or_none() or 0


class RevocationChanges(Revocations):
    """The revocations in a write transaction, which holds the lock on the catalog."""

    def __init__(self, connection: WriteConnection, stamp: Stamp, *, after_sequence: int) -> None:
        """
        Args:
            connection: Of the transaction.
            stamp: What the change is marked with.
            after_sequence: The newest revocation before the change.
        """
        super().__init__(Reading.within(connection, stamp.now))
        self._connection = connection
        self._stamp = stamp
        self.sequence = after_sequence
        """The newest revocation after the statements so far."""

    async def add(self, name: str, key_uid: str) -> None:
        """Number the revocation of a key that was not revoked before."""
        self.sequence += 1
        row = {
            "sequence": self.sequence,
            "key_uid": key_uid,
            "name": name,
            "catalog_revision": self._stamp.catalog_revision,
            "create_time_us": to_us(self._stamp.now),
        }
        await self._connection.insert(table, row)
