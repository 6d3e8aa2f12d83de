"""Which relayed snapshot an ingress replica takes over."""

from __future__ import annotations

from dataplane.relay.messages import SerializedSnapshot
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.snapshot.validation import ValidationResult, validation_result
from tests.disk import ONE, THREE, TWO, snapshot


def relayed(content: Snapshot, *, withdrawn: frozenset[Position] = frozenset()) -> SerializedSnapshot:
    validation: ValidationResult = validation_result(content, "rules")
    return SerializedSnapshot.of(content, validation, withdrawn=withdrawn)


def test_the_first_and_each_newer_snapshot_is_taken_over() -> None:
    assert relayed(ONE).replaces(None)
    assert relayed(TWO).replaces(ONE.position)


def test_the_same_snapshot_is_not_taken_over_again() -> None:
    assert not relayed(ONE).replaces(ONE.position)


def test_an_older_snapshot_is_not_taken_over() -> None:
    """An agent that found a full disk may serve an older one; what was revoked stays revoked."""
    assert not relayed(ONE).replaces(TWO.position)
    assert not relayed(ONE, withdrawn=frozenset((THREE.position,))).replaces(TWO.position)


def test_an_older_snapshot_is_taken_over_if_the_agent_has_withdrawn_the_newer_one() -> None:
    assert relayed(ONE, withdrawn=frozenset((TWO.position,))).replaces(TWO.position)


def test_a_snapshot_of_another_store_is_taken_over() -> None:
    assert relayed(snapshot(1, store_uid="store-b")).replaces(TWO.position)
