"""Views from what the relay passes on."""

from __future__ import annotations

from dataclasses import replace

from dataplane.ingress.relayed_view import RelayedView
from dataplane.relay.messages import SerializedSnapshot
from dataplane.relay.relay import Changes
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.activation import Activation, View
from dataplane.snapshot.snapshot import Snapshot
from dataplane.snapshot.validation import validation_result, validation_rules
from tests.raw import CATALOG, POLICY, accepted

RULES = validation_rules("1", POLICY)
FIRST = accepted(CATALOG)
SECOND = accepted(CATALOG[:1], held=FIRST)


def relayed(snapshot: Snapshot) -> SerializedSnapshot:
    return SerializedSnapshot.of(snapshot, validation_result(snapshot, RULES))


def damaged(snapshot: Snapshot) -> SerializedSnapshot:
    return replace(relayed(snapshot), blobs=(b"damaged", *relayed(snapshot).blobs[1:]))


def changes(snapshot: SerializedSnapshot | None = None, activation: int = 0) -> Changes:
    changed: dict[Key, object] = {}
    if snapshot is not None:
        changed[Key(Topic.SNAPSHOT)] = snapshot
    if activation:
        changed[Key(Topic.ACTIVATION)] = Activation(sequence=activation, models={})
    return Changes(epoch="e", is_complete=False, changed=changed, removed=frozenset())


def decides_by(view: View | None) -> tuple[int, int]:
    assert view is not None
    return view.snapshot.position.revision, view.activation.sequence


async def test_a_view_needs_a_snapshot_and_an_activation() -> None:
    view = RelayedView(POLICY, RULES)
    assert await view.take(changes(activation=1)) is None
    assert decides_by(await view.take(changes(relayed(FIRST)))) == (1, 1)
    assert decides_by(await view.take(changes(activation=2))) == (1, 2)
    assert decides_by(await view.take(changes(relayed(SECOND)))) == (2, 2)


async def test_activation_is_taken_over_although_the_snapshot_of_the_same_poll_is_refused() -> None:
    view = RelayedView(POLICY, RULES)
    await view.take(changes(relayed(FIRST), activation=1))
    assert decides_by(await view.take(changes(damaged(SECOND), activation=2))) == (1, 2)
    assert decides_by(await view.take(changes(relayed(SECOND)))) == (2, 2)


async def test_activation_that_came_with_a_refused_first_snapshot_is_used_with_the_next() -> None:
    view = RelayedView(POLICY, RULES)
    assert await view.take(changes(damaged(FIRST), activation=1)) is None
    assert decides_by(await view.take(changes(relayed(FIRST)))) == (1, 1)
