from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.snapshot.revocations import revoked_keys
from dataplane.snapshot.revocations.batch import Batch, BatchRefused, Gap
from dataplane.snapshot.revocations.revoked_keys import Addition, RevocationsPosition, RevokedKeys

LOG = [f"key-{number}" for number in range(1, 21)]
"""Uids in the order in which a store revoked them."""


def part(after: int, last: int, *, store_uid: str = "store", prefix: str = "") -> Batch:
    uids = tuple(prefix + uid for uid in LOG[after:last])
    return Batch(store_uid=store_uid, after_sequence=after, last_sequence=last, key_uids=uids)


def at(sequence: int, store_uid: str = "store") -> RevocationsPosition:
    return RevocationsPosition(store_uid=store_uid, sequence=sequence)


def holding(last: int) -> RevokedKeys:
    held = RevokedKeys()
    held.take(part(0, last))
    return held


def test_a_batch_adds_its_keys_and_moves_the_position() -> None:
    held = holding(2)
    assert held.take(part(2, 3)) == Addition(key_uids=("key-3",), position=at(3))
    assert (list(held), held.position) == (LOG[:3], at(3))


def test_a_replay_changes_nothing() -> None:
    held = holding(5)
    for after, last in ((0, 5), (1, 3), (4, 5)):
        assert held.take(part(after, last)) is None
    assert (list(held), held.position) == (LOG[:5], at(5))


def test_a_batch_that_overlaps_adds_the_rest() -> None:
    held = holding(3)
    assert held.take(part(1, 5)) == Addition(key_uids=("key-4", "key-5"), position=at(5))


def test_a_gap_is_refused_and_changes_nothing() -> None:
    held = holding(3)
    with pytest.raises(Gap, match="got 4 of store store; known are 3"):
        held.take(part(4, 6))
    assert (list(held), held.position) == (LOG[:3], at(3))
    with pytest.raises(Gap):
        held.take(part(3, 6, store_uid="another"))


def test_revocations_of_a_store_before_stay_in_force() -> None:
    """A store that was restored from a backup counts from its own beginning."""
    held = holding(5)
    addition = held.take(part(0, 2, store_uid="restored"))
    assert addition == Addition(key_uids=(), position=at(2, "restored")), "its position has to be kept"
    assert list(held) == LOG[:5]
    held.take(part(2, 3, store_uid="restored", prefix="new-"))
    assert list(held) == [*LOG[:5], "new-key-3"]


def test_what_others_have_kept_is_united_and_the_further_position_counts() -> None:
    held = holding(3)
    assert held.unite(LOG[:2], at(2)) is None
    assert held.unite(LOG[:4], at(4)) == Addition(key_uids=("key-4",), position=at(4))
    assert held.unite(["unknown"], RevocationsPosition()) == Addition(key_uids=("unknown",), position=at(4))
    assert held.unite((), at(1, "another")) == Addition(key_uids=(), position=at(1, "another"))


def test_more_keys_than_allowed_are_refused_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoked_keys, "REVOKED_MAX", 4)
    held = holding(3)
    with pytest.raises(BatchRefused, match="3 revoked keys are held, and 2 more exceed 4"):
        held.take(part(3, 5))
    assert (list(held), held.position) == (LOG[:3], at(3))
    assert held.take(part(3, 4)) is not None
    assert held.take(part(0, 4)) is None, "what is held already needs no room"


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from(["store", "store", "restored"])), max_size=40
    )
)
def test_batches_in_any_order_never_lose_a_key_nor_claim_one_that_is_missing(
    batches: list[tuple[int, int, str]],
) -> None:
    held, seen = RevokedKeys(), set[str]()
    for after, count, store_uid in batches:
        made = part(min(after, 19), min(after + count, 20), store_uid=store_uid, prefix=store_uid[0])
        try:
            held.take(made)
        except Gap:
            continue
        seen.update(made.key_uids)
        assert held.uids == seen
        claimed = {held.position.store_uid[0] + uid for uid in LOG[: held.position.sequence]}
        assert claimed <= held.uids


@given(st.permutations(range(5)))
def test_a_client_that_asks_again_after_each_gap_ends_with_all(order: list[int]) -> None:
    held, parts = RevokedKeys(), [part(4 * number, 4 * number + 4) for number in range(5)]
    for number in order:
        try:
            held.take(parts[number])
        except Gap:
            for missing in parts[held.position.sequence // 4 : number + 1]:
                held.take(missing)
    assert (sorted(held), held.position) == (sorted(LOG), at(20))
