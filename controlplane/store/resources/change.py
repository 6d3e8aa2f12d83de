"""What the repositories of one write transaction share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Table, update

from controlplane.catalog.domain import Stamp
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.entry_changes import EntryChanges
from controlplane.store.reading import Reading
from controlplane.store.resources.revocations import RevocationChanges
from controlplane.store.resources.served_names import ServedNames


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogChange:
    """A change of the catalog, on a connection that holds the lock on the catalog.

    Invariant: a resource's row, its served name and its entry change together.
    """

    connection: WriteConnection
    stamp: Stamp
    """What the change is marked with."""
    entries: EntryChanges
    served_names: ServedNames
    revocations: RevocationChanges

    @property
    def reading(self) -> Reading:
        """Reads what the transaction has written so far, as of the time of the change."""
        return Reading.within(self.connection, self.stamp.now)

    async def put_row(self, table: Table, values: Mapping[str, object], key: Mapping[str, object] | None) -> None:
        """Insert a row, or update the row with this key."""
        if key is None:
            await self.connection.insert(table, values)
        else:
            conditions = (table.c[column] == value for column, value in key.items())
            await self.connection.execute(update(table).where(*conditions).values(**values))
