"""What differs between two snapshots, as it is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dataplane.snapshot.snapshot import Position, RawEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Leads from one snapshot to a later one."""

    base: Position
    """Where it begins."""
    entries: tuple[RawEntry, ...]
    """Entries that are new or different, ordered by name."""
    removed: frozenset[str]
    """Names of entries of the base that the later snapshot does not have."""


def changed(held: Iterable[RawEntry], change: Change) -> tuple[RawEntry, ...]:
    """The entries after `change`, ordered by name.

    Nothing is checked here: whether they are those of a snapshot shows in their root digest.

    Args:
        held: The entries of the base, ordered by name.
        change: What differs.
    """
    replaced = change.removed | {entry.name for entry in change.entries}
    kept = [entry for entry in held if entry.name not in replaced]
    # Two ordered runs: the sort merges them in time proportional to their length.
    return tuple(sorted([*kept, *change.entries], key=lambda entry: entry.name))
