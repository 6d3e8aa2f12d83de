"""API keys that are revoked whatever snapshot is served, and how far they are known. Pure.

Revocations arrive beside snapshots. They are never forgotten: a snapshot that still has such a key
may be booted later, or come from a store that was restored from an old backup. A uid is unique over
all stores, so those of an earlier store stay in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dataplane.snapshot.revocations.batch import Batch, BatchRefused, Gap

REVOKED_MAX = 1_000_000
"""Uids that are held: a store has no more, because revoked keys stay entries of its snapshots. They
take about 150 MB in the agent and in each ingress replica; a thousand take 150 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationsPosition:
    """How far the revocations of a store are known."""

    store_uid: str = ""
    """Empty: those of no store are."""
    sequence: int = 0
    """Of the newest that is known. 0: none."""

    def covers(self, other: RevocationsPosition) -> bool:
        """Whether all that is known at `other` is known here."""
        return not other.sequence or (self.store_uid == other.store_uid and self.sequence >= other.sequence)


NOTHING_REVOKED = RevocationsPosition()


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What a batch changes."""

    key_uids: tuple[str, ...]
    """Those that were not revoked before."""
    position: RevocationsPosition
    """After it."""


class RevokedKeys:
    """The revoked keys that are known.

    Invariants: a uid that was added stays; at most REVOKED_MAX are held; all of the position's
    store up to its sequence are held.
    """

    def __init__(self) -> None:
        self.position = NOTHING_REVOKED
        """How far those of the latest store are known."""
        self._uids: dict[str, None] = {}
        """In the order in which they came."""

    def __len__(self) -> int:
        return len(self._uids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._uids)

    @property
    def uids(self) -> AbstractSet[str]:
        """Their uids, to read only."""
        return self._uids.keys()

    def take(self, batch: Batch) -> Addition | None:
        """Take a batch. What is known already changes nothing.

        Returns:
            What it changes; None: nothing.

        Raises:
            Gap: It begins after revocations that are not known.
            BatchRefused: There would be more than REVOKED_MAX.
        """
        held = self.position if self.position.store_uid == batch.store_uid else NOTHING_REVOKED
        if batch.after_sequence > held.sequence:
            raise Gap(
                f"after_sequence: got {batch.after_sequence} of store {batch.store_uid}; known are {held.sequence}"
            )
        position = RevocationsPosition(store_uid=batch.store_uid, sequence=max(held.sequence, batch.last_sequence))
        return self._add(batch.key_uids, position)

    def unite(self, key_uids: Iterable[str], position: RevocationsPosition) -> Addition | None:
        """Take what another process or the disk has kept.

        Args:
            key_uids: They stay revoked, whatever `position` says.
            position: How far they are known there. Of two stores, the one in `position` counts.

        Raises:
            BatchRefused: There would be more than REVOKED_MAX.
        """
        is_newer = position.sequence > 0 and not self.position.covers(position)
        return self._add(key_uids, position if is_newer else self.position)

    def _add(self, key_uids: Iterable[str], position: RevocationsPosition) -> Addition | None:
        new = dict.fromkeys(uid for uid in key_uids if uid not in self._uids)
        if len(self._uids) + len(new) > REVOKED_MAX:
            raise BatchRefused(f"{len(self._uids)} revoked keys are held, and {len(new)} more exceed {REVOKED_MAX}")
        if not new and position == self.position:
            return None
        self._uids.update(new)
        self.position = position
        return Addition(key_uids=tuple(new), position=position)
