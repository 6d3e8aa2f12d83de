"""Views from what the relay passes on."""

from __future__ import annotations

from dataclasses import replace

from dataplane.ingress.relayed_view import RelayedView
from dataplane.relay.messages import SerializedSnapshot
from dataplane.relay.relay import Changes
from dataplane.relay.snapshots import BASE, RelayedSnapshot, SerializedChange, SnapshotBase
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.activation import Activation, View
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.snapshot import RawEntry, Snapshot
from dataplane.snapshot.validation import validation_result, validation_rules
from tests.raw import CATALOG, POLICY, accepted, model, position, raw

RULES = validation_rules("1", POLICY)
FIRST = accepted(CATALOG)


def after(held: Snapshot, *entries: RawEntry, removed: frozenset[str] = frozenset(), head: bytes = b"") -> Snapshot:
    change = Change(base=held.position, entries=entries, removed=removed)
    at = position(changed(held.entries, change), held.position.revision + 1)
    outcome = accept_change(at, change, held, POLICY, signed_head=head)
    assert isinstance(outcome, Snapshot), outcome
    return outcome


SECOND = after(FIRST, raw(model("c")), head=b"head of 2")
THIRD = after(SECOND, removed=frozenset({"models/c"}), head=b"head of 3")


def whole(snapshot: Snapshot) -> SerializedSnapshot:
    return SerializedSnapshot.of(snapshot, validation_result(snapshot, RULES))


def damaged(snapshot: Snapshot) -> SerializedSnapshot:
    return replace(whole(snapshot), blobs=(b"damaged", *whole(snapshot).blobs[1:]))


def step(before: Snapshot, snapshot: Snapshot) -> SerializedChange:
    names = snapshot.entries.by_name.changed_keys(before.entries.by_name)
    return SerializedChange.between(before, snapshot, names, RULES)


class Passed:
    """What the relay holds of the snapshot, and a view of it."""

    def __init__(self) -> None:
        self.holds: RelayedSnapshot | None = None
        self.reads = 0
        self._view = RelayedView(POLICY, RULES, self._read)

    async def _read(self) -> RelayedSnapshot | None:
        self.reads += 1
        return self.holds

    async def whole(self, snapshot: SerializedSnapshot, *steps: SerializedChange, activation: int = 0) -> View | None:
        """Another whole snapshot is put, with changes after it."""
        self.holds = RelayedSnapshot(whole=snapshot, changes=steps)
        base = SnapshotBase(position=snapshot.position, withdrawn=snapshot.withdrawn)
        return await self.told(*steps, base=base, activation=activation)

    async def change(self, *steps: SerializedChange) -> View | None:
        """Changes are put."""
        assert self.holds is not None
        self.holds = replace(self.holds, changes=(*self.holds.changes, *steps))
        return await self.told(*steps)

    async def told(
        self, *steps: SerializedChange, base: SnapshotBase | None = None, activation: int = 0
    ) -> View | None:
        """The relay answers a poll."""
        found: dict[Key, object] = {Key(Topic.CHANGES, f"{one.position.revision:020d}"): one for one in reversed(steps)}
        if base is not None:
            found[BASE] = base
        if activation:
            found[Key(Topic.ACTIVATION)] = Activation(sequence=activation, models={})
        return await self._view.take(Changes(epoch="e", is_complete=False, changed=found, removed=frozenset()))


def decides_by(view: View | None) -> tuple[int, int]:
    assert view is not None
    return view.snapshot.position.revision, view.activation.sequence


async def test_a_view_needs_a_snapshot_and_an_activation() -> None:
    passed = Passed()
    assert await passed.told(activation=1) is None
    assert decides_by(await passed.whole(whole(FIRST))) == (1, 1)
    assert decides_by(await passed.told(activation=2)) == (1, 2)
    assert decides_by(await passed.whole(whole(SECOND))) == (2, 2)


async def test_changes_are_applied_and_nothing_whole_is_read() -> None:
    passed = Passed()
    await passed.whole(whole(FIRST), activation=1)
    view = await passed.change(step(FIRST, SECOND), step(SECOND, THIRD))
    assert decides_by(view) == (3, 1)
    assert view is not None
    assert view.snapshot == THIRD
    assert view.snapshot.signed_head == b"head of 3"
    # The agent replaces the changes by a whole snapshot, which this replica has.
    await passed.whole(whole(THIRD))
    assert passed.reads == 1


async def test_a_replica_that_starts_takes_the_whole_and_the_changes_after_it() -> None:
    passed = Passed()
    view = await passed.whole(whole(FIRST), step(FIRST, SECOND), step(SECOND, THIRD), activation=1)
    assert view is not None
    assert view.snapshot == THIRD


async def test_a_replica_that_missed_a_change_reads_everything() -> None:
    passed = Passed()
    await passed.whole(whole(FIRST), activation=1)
    passed.holds = RelayedSnapshot(whole=whole(FIRST), changes=(step(FIRST, SECOND), step(SECOND, THIRD)))
    assert decides_by(await passed.told(step(SECOND, THIRD))) == (3, 1)
    assert passed.reads == 2


async def test_a_damaged_change_is_refused_and_everything_is_read() -> None:
    passed = Passed()
    await passed.whole(whole(FIRST), activation=1)
    good = step(FIRST, SECOND)
    entry = replace(good.change.entries[0], blob=b"damaged")
    bad = replace(good, change=replace(good.change, entries=(entry,)))
    assert decides_by(await passed.change(bad)) == (1, 1)
    passed.holds = RelayedSnapshot(whole=whole(FIRST), changes=(good,))
    assert decides_by(await passed.told(activation=2)) == (2, 2)  # tried again with the next poll


async def test_changes_that_come_again_change_nothing() -> None:
    passed = Passed()
    await passed.whole(whole(FIRST), activation=1)
    await passed.change(step(FIRST, SECOND), step(SECOND, THIRD))
    assert decides_by(await passed.told(step(FIRST, SECOND), step(SECOND, THIRD))) == (3, 1)
    assert passed.reads == 1


async def test_an_older_snapshot_is_taken_over_only_if_the_newer_one_is_withdrawn() -> None:
    passed = Passed()
    await passed.whole(whole(SECOND), activation=1)
    assert decides_by(await passed.whole(whole(FIRST))) == (2, 1)
    withdrawing = replace(whole(FIRST), withdrawn=frozenset({SECOND.position}))
    assert decides_by(await passed.whole(withdrawing)) == (1, 1)


async def test_a_relay_that_was_restarted_empty_takes_nothing_away() -> None:
    passed = Passed()
    await passed.whole(whole(FIRST), activation=1)
    passed.holds = None
    assert decides_by(await passed.told(step(SECOND, THIRD), activation=2)) == (1, 2)
    assert decides_by(await passed.whole(whole(FIRST), step(FIRST, SECOND), step(SECOND, THIRD))) == (3, 2)


async def test_activation_is_taken_over_although_the_snapshot_of_the_same_poll_is_refused() -> None:
    passed = Passed()
    await passed.whole(whole(FIRST), activation=1)
    assert decides_by(await passed.whole(damaged(SECOND), activation=2)) == (1, 2)
    assert decides_by(await passed.whole(whole(SECOND))) == (2, 2)


async def test_activation_that_came_with_a_refused_first_snapshot_is_used_with_the_next() -> None:
    passed = Passed()
    assert await passed.whole(damaged(FIRST), activation=1) is None
    assert decides_by(await passed.whole(whole(FIRST))) == (1, 1)
