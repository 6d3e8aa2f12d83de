"""How a snapshot lies in the relay: a whole one, and the changes that have come after it.

A process that follows gets each change once. A process that starts, or has missed one, reads all
(`read_snapshot`). Only `SnapshotBase`, which is small, tells those who follow that there is another
whole snapshot: nobody gets a whole snapshot that it does not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dataplane.relay.messages import SerializedSnapshot, replaces
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.snapshot.validation import ValidationResult, validation_result

WHOLE, BASE = Key(Topic.SNAPSHOT), Key(Topic.SNAPSHOT_BASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotBase:
    """Which whole snapshot is in the relay."""

    position: Position
    withdrawn: frozenset[Position] = frozenset()
    """As in `SerializedSnapshot`."""

    def replaces(self, held: Position | None) -> bool:
        """Whether a reader that holds `held` takes it over."""
        return replaces(self.position, self.withdrawn, held)


@dataclass(frozen=True, slots=True, kw_only=True)
class SerializedChange:
    """A change that was put into service."""

    position: Position
    """Of the snapshot that it leads to."""
    change: Change
    validation: ValidationResult
    """Of the entries of the change."""
    signed_head: bytes = b""
    """The serialised SignedHead of that snapshot. Empty: none."""

    @classmethod
    def between(cls, before: Snapshot, snapshot: Snapshot, names: Iterable[str], rules: str) -> SerializedChange:
        """What leads from one snapshot to another.

        Args:
            before: Where it begins.
            snapshot: Where it leads to.
            names: All entries in which they differ.
            rules: From `validation_rules`.
        """
        names = tuple(names)
        entries = tuple(entry for name in sorted(names) if (entry := snapshot.entries.get(name)) is not None)
        removed = frozenset(names) - {entry.name for entry in entries}
        return cls(
            position=snapshot.position,
            change=Change(base=before.position, entries=entries, removed=removed),
            validation=validation_result(snapshot, rules, names),
            signed_head=snapshot.signed_head,
        )

    def replaces(self, held: Position | None) -> bool:
        """Whether it leads on from `held`, at once or by changes before it."""
        return replaces(self.position, frozenset(), held)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedSnapshot:
    """All that there is of the snapshot in service."""

    whole: SerializedSnapshot
    changes: tuple[SerializedChange, ...]
    """In the order in which they were put."""

    def following(self) -> Iterator[SerializedChange]:
        """The changes that lead on from the whole snapshot, one from the other."""
        position = self.whole.position
        for change in self.changes:
            if change.change.base == position:
                position = change.position
                yield change


async def read_snapshot(relay: Relay) -> RelayedSnapshot | None:
    """The snapshot that the relay has; None: it has none."""
    found = await relay.read([WHOLE, Topic.CHANGES])
    whole: SerializedSnapshot | None = found.changed.get(WHOLE)
    if whole is None:
        return None
    changes = found.values(Topic.CHANGES)
    return RelayedSnapshot(whole=whole, changes=tuple(changes[name] for name in sorted(changes)))
