"""Which position may follow which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.snapshot.accept import accept
from dataplane.snapshot.rejection import POSITION_INVALID, REVISION_CONFLICT, REVISION_LOWER, STORE_UID_MISMATCH
from dataplane.snapshot.snapshot import Position, Snapshot
from tests.raw import CATALOG, POLICY, accepted, digest_of, position, rejected


def test_another_store_is_refused_until_an_operator_allows_it() -> None:
    held = accepted(CATALOG)
    other = position(CATALOG, 9, store_uid="store-b")
    assert rejected(CATALOG, at=other, held=held) == STORE_UID_MISMATCH
    outcome = accept(other, CATALOG, held=held, policy=replace(POLICY, allow_new_store=True))
    assert isinstance(outcome, Snapshot)


def test_any_store_is_accepted_when_no_snapshot_is_held() -> None:
    assert isinstance(accept(position(CATALOG, 9, store_uid="store-b"), CATALOG, held=None, policy=POLICY), Snapshot)


def test_a_lower_revision_is_refused() -> None:
    held = accept(position(CATALOG, 5), CATALOG, held=None, policy=POLICY)
    assert isinstance(held, Snapshot)
    assert rejected(CATALOG[:1], at=position(CATALOG[:1], 4), held=held) == REVISION_LOWER


def test_the_same_revision_with_other_content_is_refused() -> None:
    held = accept(position(CATALOG, 5), CATALOG, held=None, policy=POLICY)
    assert isinstance(held, Snapshot)
    assert rejected(CATALOG[:1], at=position(CATALOG[:1], 5), held=held) == REVISION_CONFLICT
    assert isinstance(accept(held.position, CATALOG, held=held, policy=POLICY), Snapshot)


@pytest.mark.parametrize(
    "at",
    [
        Position(store_uid="", revision=1, digest=digest_of(CATALOG)),
        Position(store_uid="s", revision=-1, digest=digest_of(CATALOG)),
        Position(store_uid="s", revision=1, digest=b"short"),
    ],
)
def test_an_incomplete_position_is_refused(at: Position) -> None:
    assert rejected(CATALOG, at=at) == POSITION_INVALID
