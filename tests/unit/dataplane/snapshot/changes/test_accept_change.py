"""A change gives what all entries would give: the same snapshot, or the same rejection."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dataplane.snapshot import entry_checks
from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.persistent import sorted_map
from dataplane.snapshot.policy import Limits, Policy
from dataplane.snapshot.quarantine import BASE_MODEL_QUARANTINED
from dataplane.snapshot.rejection import (
    BASE_MODEL_MISSING,
    BLOB_DIGEST_MISMATCH,
    BLOB_TOO_LARGE,
    CHANGE_BASE_MISMATCH,
    ENTRIES_NOT_ORDERED,
    REVISION_LOWER,
    ROOT_DIGEST_MISMATCH,
    ROUTE_TARGET_MISSING,
    SERVED_NAME_CONFLICT,
    SNAPSHOT_TOO_LARGE,
    STORE_UID_MISMATCH,
    Rejection,
)
from dataplane.snapshot.snapshot import Message, Position, RawEntry, Snapshot
from dataplane.snapshot.validation import trusted_quarantines, validation_result
from tests import views
from tests.catalog_changes import CATALOGS, REMOVALS, Catalog, ordered, repaired
from tests.raw import CATALOG, POLICY, accepted, adapter, model, position, raw, raws


def is_accepted(entries: tuple[RawEntry, ...]) -> bool:
    return isinstance(accept(position(entries), entries, held=None, policy=POLICY), Snapshot)


def change_of(held: Snapshot, *entries: RawEntry, removed: frozenset[str] = frozenset()) -> Change:
    return Change(base=held.position, entries=entries, removed=removed)


def after(
    held: Snapshot, change: Change, *, at: Position | None = None, policy: Policy = POLICY
) -> Snapshot | Rejection:
    """The outcome of a change, which must be that of all entries."""
    entries = changed(held.entries, change)
    at = at or position(entries, held.position.revision + 1)
    outcome = accept_change(at, change, held, policy)
    whole = accept(at, entries, held=None, policy=policy)
    if isinstance(outcome, Rejection) or isinstance(whole, Rejection):
        assert isinstance(outcome, Rejection), (outcome, whole)
        assert isinstance(whole, Rejection), whole
        assert outcome.reason == whole.reason
    else:
        assert outcome == whole
    return outcome


def fitting(held: Snapshot, values: Catalog) -> tuple[RawEntry, ...]:
    """The part of a change that leads to a snapshot."""
    return ordered(repaired(values, lambda entries: is_accepted(changed(held.entries, change_of(held, *entries)))))


def reason(outcome: Snapshot | Rejection) -> str:
    assert isinstance(outcome, Rejection), outcome
    assert outcome.message
    return outcome.reason


def well(outcome: Snapshot | Rejection) -> Snapshot:
    assert isinstance(outcome, Snapshot), outcome
    return outcome


@settings(deadline=None, max_examples=250)
@given(first=CATALOGS, steps=st.lists(st.tuples(CATALOGS, REMOVALS), max_size=6))
def test_changes_give_what_all_entries_give(first: Catalog, steps: list[tuple[Catalog, set[str]]]) -> None:
    held = accepted(ordered(repaired(first, is_accepted)))
    by_ingress = held
    for values, removed in steps:
        change = change_of(held, *ordered(values), removed=frozenset(removed))
        outcome = after(held, change)
        event(outcome.reason if isinstance(outcome, Rejection) else "a snapshot")
        if isinstance(outcome, Rejection):
            # Most random changes do not fit. The part that fits leads on.
            change = change_of(held, *fitting(held, values))
            outcome = well(after(held, change))
        validation = validation_result(outcome, "rules")
        found = trusted_quarantines(validation, outcome.position, "rules")
        by_ingress = well(accept_change(outcome.position, change, by_ingress, POLICY, found=found))
        assert by_ingress == outcome
        held = outcome


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small catalog fills several."""
    monkeypatch.setattr(sorted_map, "BLOCK_KEYS", 3)


HELD = accepted(CATALOG)
NEW = raw(model("c"))


def test_a_change_sets_and_removes_and_leaves_the_one_before_as_it_was() -> None:
    before = (tuple(HELD.entries), dict(HELD.served), HELD.size_bytes)
    snapshot = well(after(HELD, change_of(HELD, NEW, removed=frozenset({"models/a/adapters/x"}))))
    assert set(snapshot.served) == {"a", "a:y", "b", "b:x", "c"}
    assert (tuple(HELD.entries), dict(HELD.served), HELD.size_bytes) == before


def test_the_signed_head_is_that_of_the_change() -> None:
    change = change_of(HELD, NEW)
    at = position(changed(HELD.entries, change), 2)
    assert well(accept_change(at, change, replace(HELD, signed_head=b"old"), POLICY)).signed_head == b""
    assert well(accept_change(at, change, HELD, POLICY, signed_head=b"signed")).signed_head == b"signed"


def test_only_what_a_change_sets_is_decoded_and_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []

    def violations_of(message: Message) -> tuple[()]:
        seen.append(message)
        return ()

    monkeypatch.setattr(entry_checks, "violations_of", violations_of)
    unchanged = HELD.entries[0]
    snapshot = well(
        accept_change(
            position(changed(HELD.entries, change_of(HELD, NEW)), 2), change_of(HELD, unchanged, NEW), HELD, POLICY
        )
    )
    assert [message.name for message in seen] == ["models/c"]
    assert snapshot.models["models/a"] is HELD.models["models/a"]


def test_a_change_of_another_snapshot_is_refused() -> None:
    other = accepted(CATALOG[:1])
    change = change_of(other, NEW)
    assert (
        reason(accept_change(position(changed(HELD.entries, change), 2), change, HELD, POLICY)) == CHANGE_BASE_MISMATCH
    )


def test_a_change_to_an_older_position_or_another_store_is_refused() -> None:
    held, change = replace(HELD, position=position(CATALOG, 5)), change_of(HELD, NEW)
    change = replace(change, base=held.position)
    entries = changed(held.entries, change)
    assert reason(accept_change(position(entries, 4), change, held, POLICY)) == REVISION_LOWER
    assert reason(accept_change(position(entries, 6, store_uid="b"), change, held, POLICY)) == STORE_UID_MISMATCH


def test_a_wrong_root_an_altered_blob_and_a_wrong_order_are_refused() -> None:
    change = change_of(HELD, NEW)
    assert reason(after(HELD, change, at=position(CATALOG, 2))) == ROOT_DIGEST_MISMATCH
    altered = change_of(HELD, replace(NEW, blob=NEW.blob + b"\0"))
    assert reason(after(HELD, altered)) == BLOB_DIGEST_MISMATCH
    held_entry = replace(CATALOG[0], blob=b"other bytes, same digest")
    assert reason(after(HELD, change_of(HELD, held_entry))) == BLOB_DIGEST_MISMATCH
    unordered = change_of(HELD, raw(model("d")), NEW)
    at = position(changed(HELD.entries, unordered), 2)
    assert reason(accept_change(at, unordered, HELD, POLICY)) == ENTRIES_NOT_ORDERED
    twice = change_of(HELD, NEW, NEW)
    assert reason(accept_change(at, twice, HELD, POLICY)) == ENTRIES_NOT_ORDERED


def test_the_result_is_within_the_limits_of_a_snapshot() -> None:
    def limited(**limits: int) -> Policy:
        return replace(POLICY, limits=Limits(**limits))

    change = change_of(HELD, NEW)
    assert reason(after(HELD, change, policy=limited(entries_max=len(CATALOG)))) == SNAPSHOT_TOO_LARGE
    assert reason(after(HELD, change, policy=limited(blob_bytes_max=len(NEW.blob) - 1))) == BLOB_TOO_LARGE
    size = well(after(HELD, change)).size_bytes
    assert reason(after(HELD, change, policy=limited(total_bytes_max=size - 1))) == SNAPSHOT_TOO_LARGE
    well(after(HELD, change, policy=limited(total_bytes_max=size, entries_max=len(CATALOG) + 1)))
    # What a change replaces and removes makes room.
    swap = change_of(HELD, NEW, removed=frozenset({"models/a/adapters/x"}))
    well(after(HELD, swap, policy=limited(entries_max=len(CATALOG), total_bytes_max=size)))


def test_removing_what_is_referred_to_is_refused() -> None:
    routed = accepted((*CATALOG, raw(views.route("r", {"models/b/adapters/x": 1}))))
    assert reason(after(HELD, change_of(HELD, removed=frozenset({"models/a"})))) == BASE_MODEL_MISSING
    gone = frozenset({"models/b/adapters/x"})
    assert reason(after(routed, change_of(routed, removed=gone))) == ROUTE_TARGET_MISSING
    well(after(routed, change_of(routed, removed=gone | {"routes/r"})))
    everything = frozenset(entry.name for entry in routed.entries)
    assert not well(after(routed, change_of(routed, removed=everything))).served


def test_an_adapter_is_no_base() -> None:
    in_place_of_the_model = adapter("b", "z")
    in_place_of_the_model.name = "models/a"
    assert reason(after(HELD, change_of(HELD, raw(in_place_of_the_model)))) == BASE_MODEL_MISSING
    on_an_adapter = adapter("a", "z")
    on_an_adapter.model = "models/a/adapters/x"
    assert reason(after(HELD, change_of(HELD, raw(on_an_adapter)))) == BASE_MODEL_MISSING


def test_served_names_stay_unique_and_may_move() -> None:
    twin = model("c")
    twin.served_name = "a:x"
    assert reason(after(HELD, change_of(HELD, raw(twin)))) == SERVED_NAME_CONFLICT
    moved = well(after(HELD, change_of(HELD, raw(twin), removed=frozenset({"models/a/adapters/x"}))))
    assert moved.served["a:x"].name == "models/c"
    hidden = accepted(raws(model("a", uri="s3://x/y"), adapter("a", "x")))
    assert reason(after(hidden, change_of(hidden, raw(twin)))) == SERVED_NAME_CONFLICT


def test_a_quarantined_base_takes_its_adapters_with_it_and_brings_them_back() -> None:
    bad = raw(model("a", uri="s3://x/y"))
    without = well(after(HELD, change_of(HELD, bad)))
    assert set(without.served) == {"b", "b:x"}
    assert without.quarantined["models/a/adapters/x"].reason == BASE_MODEL_QUARANTINED
    own_fault = well(after(without, change_of(without, raw(adapter("a", "y", uri="s3://x/y")))))
    back = well(after(own_fault, change_of(own_fault, raw(model("a")))))
    assert set(back.served) == {"a", "a:x", "b", "b:x"}
    assert set(back.quarantined) == {"models/a/adapters/y"}


def test_an_unchanged_pin_follows_the_served_name_of_its_model() -> None:
    pinned = accepted((*CATALOG[:3], raw(views.pinned(model("a", number=4))), *CATALOG[3:]))
    renamed = model("a", number=9)
    renamed.served_name = "other"
    snapshot = well(after(pinned, change_of(pinned, raw(renamed))))
    assert snapshot.deployable["models/a/revisions/4"].served_name == "other"
    hidden = well(after(snapshot, change_of(snapshot, raw(model("a", uri="s3://x/y")))))
    assert set(hidden.deployable) == {"models/a/revisions/4", "models/b"}


def test_the_last_revoked_key_still_requires_keys_and_the_last_removed_does_not() -> None:
    with_key = well(after(HELD, change_of(HELD, raw(views.api_key("alice", "bs-a")))))
    assert (with_key.has_api_keys, len(with_key.api_keys)) == (True, 1)
    revoked = well(after(with_key, change_of(with_key, raw(views.api_key("alice", "bs-a", revoked=True)))))
    assert (revoked.has_api_keys, len(revoked.api_keys)) == (True, 0)
    assert not well(after(revoked, change_of(revoked, removed=frozenset({"apiKeys/alice"})))).has_api_keys


def test_a_key_is_checked_although_the_agent_found_no_fault() -> None:
    change = change_of(HELD, raw(views.api_key("wide", "bs-w", "[a-z]")))
    outcome = accept_change(position(changed(HELD.entries, change), 2), change, HELD, POLICY, found={})
    assert set(well(outcome).quarantined) == {"apiKeys/wide"}
