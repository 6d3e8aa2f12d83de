"""How reports from the shared database change what is known of a data plane. Pure."""

from __future__ import annotations

from dataclasses import replace

from controlplane.fleet.data_plane import DataPlane, Session, UnsharedChanges
from controlplane.fleet.history import History
from controlplane.fleet.progress import progress_in
from controlplane.store.fleet.reports import FleetChange


def merge(known: DataPlane, change: FleetChange, *, has_unwritten_report: bool) -> bool:
    """Take what the shared database says of a data plane.

    The newest session decides, in whatever order looks and claims return. Its stream may be at
    another control plane, which then knows more; a stream of an older session at this control plane
    is superseded.

    Args:
        known: Changed in place.
        change: From the shared database.
        has_unwritten_report: Whether this process has yet to write a report of the data plane.

    Returns:
        Whether `change` has replaced what was known. An unwritten report is then about an older
        stream, and is to be dropped.
    """
    if change.session < known.session:
        # It was read before the newest session was claimed.
        return False
    known.elsewhere = replace(change, replace=False, statuses={})
    if known.connection is not None:
        if change.session == known.session:
            # The report is this process's own.
            return False
        known.end_stream()
    elif known.session == change.session and has_unwritten_report:
        # Its stream was here, and its last report has yet to be written.
        return False
    known.session = Session(change.session)
    if known.unshared:
        # `resources` mixes changes that reached the database with changes that never did. With
        # number 0, the next catch-up reads every status again.
        known.elsewhere = replace(known.elsewhere, number=0)
        known.unshared = UnsharedChanges()
    known.record = known.stored = change.record
    known.progress = progress_in(change.record)
    known.history = History.of(change.record)
    known.apply_shared(change.statuses, replace=change.replace)
    return True
