"""One change of the catalog in a write transaction, with a repository for each resource."""

from __future__ import annotations

from controlplane import principal
from controlplane.catalog import audit, snapshot
from controlplane.store.audit import AuditLog
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.entry_changes import EntryChanges
from controlplane.store.reading import Reading
from controlplane.store.request_ids import AnsweredRequestChanges
from controlplane.store.resources.adapters import AdapterChanges
from controlplane.store.resources.api_keys import ApiKeyChanges
from controlplane.store.resources.change import CatalogChange
from controlplane.store.resources.models import ModelChanges
from controlplane.store.resources.routes import RouteChanges
from controlplane.store.resources.served_names import ServedNames
from controlplane.store.revisions import NextRevision, Tip


class WriteTransaction:
    """One change of the catalog in the making. It holds the lock on the catalog until it ends.

    Its repositories read what the transaction has written so far.
    """

    def __init__(self, connection: WriteConnection, revision: NextRevision) -> None:
        self._revision = revision
        self._audit = AuditLog(connection)
        self.head = revision.tip.head
        """The snapshot before the change."""
        self.stamp = revision.stamp
        """What the change is marked with."""
        self.entries = EntryChanges(connection, revision)
        self.served_names = ServedNames(connection)
        change = CatalogChange(
            connection=connection, stamp=self.stamp, entries=self.entries, served_names=self.served_names
        )
        self.adapters = AdapterChanges(change)
        self.models = ModelChanges(change, self.adapters)
        self.routes = RouteChanges(change)
        self.api_keys = ApiKeyChanges(change)
        self.request_ids = AnsweredRequestChanges(connection, Reading.within(connection, self.stamp.now))

    async def finish(self, *, method: str, resource: str, dry_run: bool = False) -> Tip | None:
        """Allocate the revision of what was changed, and log it. None: nothing was changed.

        A dry run is only checked.

        Raises:
            errors.ResourceExhausted: the catalog would have too many entries.
        """
        if self.entries.count == 0:
            return None
        if self.entries.digest.entry_count > self.head.entry_count:
            snapshot.check_entry_count(self.entries.digest.entry_count)
        if dry_run:
            return None
        tip = await self._revision.allocate(self.entries.digest, method=method, resource=resource)
        await self._audit.append(
            audit.AuditEvent(
                catalog_revision=self.stamp.catalog_revision,
                create_time=self.stamp.now,
                principal=principal.current(),
                origin=principal.origin(),
                method=method,
                resource=resource,
                changes=await self._audit.read_changes(self.entries.changes, self.entries.blobs),
                change_count=self.entries.count,
            )
        )
        return tip
