"""Whole snapshots: what is accepted, and what is taken from the held one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.snapshot.accept import accept
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.quarantine import BASE_MODEL_QUARANTINED, SOURCE_NOT_ALLOWED
from dataplane.snapshot.rejection import ROOT_DIGEST_MISMATCH
from dataplane.snapshot.snapshot import RawEntry
from protocol.catalog_digest import blob_digest
from tests.raw import CATALOG, POLICY, accepted, adapter, model, position, raw, raws, rejected
from tests.views import api_key


def test_a_good_snapshot_is_indexed_whole() -> None:
    snapshot = accepted(CATALOG)
    assert set(snapshot.models) == {"models/a", "models/b"}
    assert set(snapshot.adapters) == {"models/a/adapters/x", "models/a/adapters/y", "models/b/adapters/x"}
    assert set(snapshot.served) == {"a", "b", "a:x", "a:y", "b:x"}
    assert snapshot.entries == CATALOG
    assert not snapshot.quarantined


def test_the_empty_catalog_is_a_snapshot() -> None:
    assert accepted(()).entries == ()


def test_unchanged_entries_are_taken_from_the_held_snapshot() -> None:
    held = accepted(CATALOG)
    snapshot = accepted(raws(model("a"), adapter("a", "x"), model("b", number=2)), held=held)
    assert snapshot.models["models/a"] is held.models["models/a"]
    assert snapshot.adapters["models/a/adapters/x"] is held.adapters["models/a/adapters/x"]
    assert snapshot.models["models/b"].revision.number == 2
    assert set(snapshot.served) == {"a", "a:x", "b"}


_MANY = raws(*(model(name) for name in "abcdef"), adapter("a", "x"))


_SOME = st.sets(st.sampled_from(_MANY)).map(
    lambda entries: tuple(sorted({*entries, _MANY[0]}, key=lambda entry: entry.name))
)


@settings(deadline=None)
@given(before=_SOME, after=_SOME, number=st.integers(1, 2))
def test_the_held_snapshot_does_not_change_the_outcome(
    before: tuple[RawEntry, ...], after: tuple[RawEntry, ...], number: int
) -> None:
    after = (raw(model("a", number=number)), *after[1:])
    held = accepted(before)
    assert accept(position(after, 2), after, held=held, policy=POLICY) == accept(
        position(after, 2), after, held=None, policy=POLICY
    )
    if before != after:
        assert rejected(before, at=position(after, 2), held=held) == ROOT_DIGEST_MISMATCH


def test_a_held_snapshot_does_not_move() -> None:
    held = accepted(CATALOG)
    before = (dict(held.models), dict(held.served), held.entries)
    accepted(raws(model("a", number=9)), held=held)
    assert (dict(held.models), dict(held.served), held.entries) == before


def test_a_quarantined_entry_is_checked_again_with_the_next_snapshot() -> None:
    entries = raws(model("a", uri="hf://org/name"), adapter("a", "x"))
    held = accepted(entries, policy=Policy(allowed_sources=("file:///",)))
    assert not held.served
    assert set(accepted(entries, held=held).served) == {"a", "a:x"}


def test_a_model_with_a_forbidden_source_is_quarantined_with_its_adapters() -> None:
    entries = raws(model("a", uri="hf://org/name"), adapter("a", "x"), model("b", uri="file:///models/b"))
    snapshot = accepted(entries, policy=Policy(allowed_sources=("file:///",)))
    assert snapshot.quarantined["models/a"].reason == SOURCE_NOT_ALLOWED
    assert snapshot.quarantined["models/a/adapters/x"].reason == BASE_MODEL_QUARANTINED
    assert set(snapshot.served) == {"b"}


def test_api_keys_are_indexed_by_hash_and_are_not_models() -> None:
    entries = raws(model("a"), api_key("alice", "bs-a"), api_key("bob", "bs-b", revoked=True))
    snapshot = accepted(entries)
    assert set(snapshot.models) == {"models/a"}
    assert set(snapshot.served) == {"a"}
    assert set(snapshot.api_key_entries) == {"apiKeys/alice", "apiKeys/bob"}
    assert {key.name for key in snapshot.api_keys.values()} == {"apiKeys/alice"}
    assert snapshot.has_api_keys
    assert not accepted(raws(model("a"))).has_api_keys
    # An unchanged key is taken from the held snapshot.
    later = accepted(raws(*[model("a"), model("b")], api_key("alice", "bs-a")), held=snapshot)
    assert later.api_key_entries["apiKeys/alice"] is snapshot.api_key_entries["apiKeys/alice"]


def test_a_damaged_api_key_is_quarantined_alone_and_callers_still_need_a_key() -> None:
    short = api_key("short", "bs-s")
    short.key_hash = b"short"
    bad_pattern = api_key("pattern", "bs-p", "[a-z]")
    unlimited = api_key("unlimited", "bs-u")
    unlimited.ClearField("limits")
    unreadable = RawEntry(
        name="apiKeys/zzz", type="broadsheet.v1.ApiKeyEntry", digest=blob_digest(b"\xff"), blob=b"\xff"
    )
    for damaged in (raw(short), raw(bad_pattern), raw(unlimited), unreadable, raw(short, type_="broadsheet.v9.Key")):
        snapshot = accepted((damaged, *raws(model("a"))))
        assert set(snapshot.quarantined) == {damaged.name}
        assert set(snapshot.served) == {"a"}
        assert (snapshot.has_api_keys, dict(snapshot.api_keys)) == (True, {})
