"""A snapshot and a change → the next Snapshot | Rejection. Pure.

Everything that `accept` checks holds of the result, and only what the change touches is looked at:
the entries that it sets and removes, what refers to them, and the adapters of a model that begins
or ceases to be served. The cost is O(c · log n + b), for c entries that are touched in a snapshot
of n in b blocks (`persistent.sorted_map`).
"""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.snapshot.change import Change
from dataplane.snapshot.changes.consistency import refuse_inconsistent_change
from dataplane.snapshot.changes.difference import Difference
from dataplane.snapshot.changes.index_edit import snapshot_after
from dataplane.snapshot.entry_checks import check_entry
from dataplane.snapshot.integrity import (
    is_same,
    refuse_blob,
    refuse_entries,
    refuse_entry_count,
    refuse_root,
    refuse_size,
)
from dataplane.snapshot.policy import Limits, Policy
from dataplane.snapshot.position_check import describe, refuse_position
from dataplane.snapshot.quarantine import Quarantine
from dataplane.snapshot.rejection import CHANGE_BASE_MISMATCH, Rejection
from dataplane.snapshot.snapshot import Entries, Position, RawEntry, Snapshot
from protocol.snapshot_limits import entry_bytes


def accept_change(
    position: Position,
    change: Change,
    held: Snapshot,
    policy: Policy,
    *,
    found: Mapping[str, Quarantine] | None = None,
    signed_head: bytes = b"",
) -> Snapshot | Rejection:
    """Check a change, and the snapshot that it leads to.

    Args:
        position: The announced position of the result.
        change: What differs from `held`. Removing an entry that is not there does nothing, and an
            entry that is also removed is set: the root digest says whether the result is right.
        held: The snapshot that the change begins at. It does not change.
        policy: What this data plane accepts. `held` was accepted under the same.
        found: The quarantines that were found for the entries of the change by `accept` or
            `accept_change` of the same release under the same policy, by name. None: its entries
            are checked.
        signed_head: The serialised SignedHead that came with it. Empty: none did.
    """
    rejection = (
        refuse_position(position, held.position, allow_new_store=policy.allow_new_store)
        or _refuse_base(change, held.position)
        or refuse_entries(change.entries, policy.limits)
    )
    if rejection is not None:
        return rejection
    # An entry that is held with the same digest changes nothing, but its bytes must be the same.
    known = [
        (entry, old if (old := held.entries.get(entry.name)) is not None and is_same(old, entry) else None)
        for entry in change.entries
    ]
    difference = _difference(held, [entry for entry, same in known if same is None], change)
    rejection = _refuse_limits(difference, policy.limits)
    for entry, same in known:
        rejection = rejection or refuse_blob(entry, same)
    # A change that does not come out says nothing of the signature: it is sent in another way.
    rejection = (
        rejection
        or refuse_root(position, difference.digest)
        or policy.refuse_head(position, difference.digest.entry_count, signed_head)
    )
    if rejection is not None:
        return rejection
    checked = {entry.name: check_entry(entry, policy, found) for entry in difference.fresh.values()}
    return refuse_inconsistent_change(difference, checked) or snapshot_after(
        position, difference, checked, policy, signed_head
    )


def _refuse_base(change: Change, held: Position) -> Rejection | None:
    if change.base == held:
        return None
    return Rejection(
        reason=CHANGE_BASE_MISMATCH,
        message=f"the change begins at {describe(change.base)}, and {describe(held)} is held",
    )


def _difference(held: Snapshot, fresh: list[RawEntry], change: Change) -> Difference:
    set_names = {entry.name for entry in change.entries}
    names = {entry.name for entry in fresh} | (change.removed - set_names)
    gone = {name: entry for name in names if (entry := held.entries.get(name)) is not None}
    digest, size = held.digest, held.size_bytes
    for entry in gone.values():
        digest = digest.removed(entry.name, entry.type, entry.digest)
        size -= entry_bytes(entry.name, entry.type, len(entry.blob))
    for entry in fresh:
        digest = digest.added(entry.name, entry.type, entry.digest)
        size += entry_bytes(entry.name, entry.type, len(entry.blob))
    by_name = {entry.name: entry for entry in fresh}
    entries = Entries(held.entries.by_name.updated(by_name, gone.keys() - by_name.keys()))
    return Difference(held=held, entries=entries, gone=gone, fresh=by_name, digest=digest, size_bytes=size)


def _refuse_limits(difference: Difference, limits: Limits) -> Rejection | None:
    return refuse_entry_count(len(difference.entries), limits) or refuse_size(difference.size_bytes, limits)
