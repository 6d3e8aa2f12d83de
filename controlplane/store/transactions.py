"""One change of the catalog in a write transaction, with a repository for each resource."""

from __future__ import annotations

import dataclasses

from controlplane import principal
from controlplane.catalog import audit, snapshot
from controlplane.store.audit import AuditLog
from controlplane.store.databases.connection import WriteConnection
from controlplane.store.entry_changes import EntryChanges
from controlplane.store.fleet.enrollments import EnrollmentChanges
from controlplane.store.fleet.removal import DataPlaneRemovals
from controlplane.store.fleet.waves import WavesChanges
from controlplane.store.reading import Reading
from controlplane.store.request_ids import AnsweredRequestChanges
from controlplane.store.resources.adapters import AdapterChanges
from controlplane.store.resources.api_keys import ApiKeyChanges
from controlplane.store.resources.change import CatalogChange
from controlplane.store.resources.models import ModelChanges
from controlplane.store.resources.revocations import RevocationChanges
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
        self.revocations = RevocationChanges(connection, self.stamp, after_sequence=self.head.revocations_sequence)
        change = CatalogChange(
            connection=connection,
            stamp=self.stamp,
            entries=self.entries,
            served_names=self.served_names,
            revocations=self.revocations,
        )
        self.adapters = AdapterChanges(change)
        self.models = ModelChanges(change, self.adapters)
        self.routes = RouteChanges(change)
        self.api_keys = ApiKeyChanges(change)
        self.data_planes = DataPlaneRemovals(connection)
        self.enrollments = EnrollmentChanges(connection)
        self.waves = WavesChanges(connection)
        self.request_ids = AnsweredRequestChanges(connection, Reading.within(connection, self.stamp.now))

    async def finish(self, *, method: str, resource: str, dry_run: bool = False) -> Tip | None:
        """Allocate the revision of what was changed, and log it. None: the catalog is as before.

        A dry run is only checked.

        Raises:
            errors.ResourceExhausted: the catalog would grow beyond what data planes take.
        """
        if self.entries.count == 0:
            is_logged = self.data_planes.count or self.enrollments.count or self.waves.is_logged
            if is_logged and not dry_run:
                await self._audit.append_operation(self._event(self.head.position.revision, method, resource))
            return None
        if self.entries.digest.entry_count > self.head.entry_count:
            snapshot.check_entry_count(self.entries.digest.entry_count)
        if self.entries.bytes > self._revision.tip.entry_bytes:
            snapshot.check_bytes(self.entries.bytes)
        if dry_run:
            return None
        tip = await self._revision.allocate(
            self.entries.digest, self.entries.bytes, self.revocations.sequence, method=method, resource=resource
        )
        event = self._event(self.stamp.catalog_revision, method, resource)
        changes = await self._audit.read_changes(self.entries.changes, self.entries.blobs)
        await self._audit.append(dataclasses.replace(event, changes=changes, change_count=self.entries.count))
        return tip

    def _event(self, catalog_revision: int, method: str, resource: str) -> audit.AuditEvent:
        return audit.AuditEvent(
            catalog_revision=catalog_revision,
            create_time=self.stamp.now,
            principal=principal.current(),
            origin=principal.origin(),
            method=method,
            resource=resource,
            changes=(),
            change_count=0,
        )
