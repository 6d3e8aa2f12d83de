"""How an agent and an ingress replica apply a change."""

from __future__ import annotations

from dataplane.snapshot.change import Change
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, Snapshot


def apply_change(position: Position, change: Change, held: Snapshot, policy: Policy) -> Snapshot | Rejection:
    """The snapshot after a change, as `SnapshotKeeper` makes it."""
    return accept_change(position, change, held, policy)
