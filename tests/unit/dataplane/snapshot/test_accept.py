from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet.v1 import model_pb2, snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.snapshot import accept as accept_module
from dataplane.snapshot.accept import Assembler, Limits, Policy, Rejection, accept, source_allowed
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from protocol.catalog_digest import blob_digest
from tests import views
from tests.raw import POLICY, adapter, digest_of, entry_proto, model, position, raw, raws
from tests.views import api_key

CATALOG = raws(model("a"), adapter("a", "x"), adapter("a", "y"), model("b"), adapter("b", "x"))


def accepted(entries: tuple[RawEntry, ...], *, policy: Policy = POLICY, held: Snapshot | None = None) -> Snapshot:
    revision = held.position.revision + 1 if held else 1
    outcome = accept(position(entries, revision), entries, held=held, policy=policy)
    assert isinstance(outcome, Snapshot), outcome
    return outcome


def rejected(
    entries: tuple[RawEntry, ...], *, at: Position | None = None, held: Snapshot | None = None, policy: Policy = POLICY
) -> str:
    outcome = accept(at or position(entries), entries, held=held, policy=policy)
    assert isinstance(outcome, Rejection), outcome
    assert outcome.message
    return outcome.reason


def test_a_good_snapshot_is_indexed_whole() -> None:
    snapshot = accepted(CATALOG)
    assert set(snapshot.models) == {"models/a", "models/b"}
    assert set(snapshot.adapters) == {"models/a/adapters/x", "models/a/adapters/y", "models/b/adapters/x"}
    assert set(snapshot.served) == {"a", "b", "a:x", "a:y", "b:x"}
    assert snapshot.entries == CATALOG
    assert not snapshot.quarantined


def test_the_empty_catalog_is_a_snapshot() -> None:
    assert accepted(()).entries == ()


# --- faults of the whole


def test_another_store_is_refused_until_an_operator_allows_it() -> None:
    held = accepted(CATALOG)
    other = position(CATALOG, 9, store_uid="store-b")
    assert rejected(CATALOG, at=other, held=held) == accept_module.STORE_UID_MISMATCH
    outcome = accept(other, CATALOG, held=held, policy=replace(POLICY, allow_new_store=True))
    assert isinstance(outcome, Snapshot)


def test_any_store_is_taken_when_nothing_is_held() -> None:
    assert isinstance(accept(position(CATALOG, 9, store_uid="store-b"), CATALOG, held=None, policy=POLICY), Snapshot)


def test_a_lower_revision_is_refused() -> None:
    held = accept(position(CATALOG, 5), CATALOG, held=None, policy=POLICY)
    assert isinstance(held, Snapshot)
    assert rejected(CATALOG[:1], at=position(CATALOG[:1], 4), held=held) == accept_module.REVISION_LOWER


def test_the_same_revision_with_other_content_is_refused() -> None:
    held = accept(position(CATALOG, 5), CATALOG, held=None, policy=POLICY)
    assert isinstance(held, Snapshot)
    assert rejected(CATALOG[:1], at=position(CATALOG[:1], 5), held=held) == accept_module.REVISION_CONFLICT
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
    assert rejected(CATALOG, at=at) == accept_module.POSITION_INVALID


def test_an_altered_blob_is_refused() -> None:
    altered = (replace(CATALOG[0], blob=CATALOG[0].blob + b"\x00"), *CATALOG[1:])
    assert rejected(altered, at=position(CATALOG)) == accept_module.BLOB_DIGEST_MISMATCH


def test_an_altered_blob_is_refused_also_where_the_entry_is_held() -> None:
    altered = (replace(CATALOG[0], blob=CATALOG[0].blob + b"\x00"), *CATALOG[1:])
    reason = rejected(altered, at=position(CATALOG, 2), held=accepted(CATALOG))
    assert reason == accept_module.BLOB_DIGEST_MISMATCH


@pytest.mark.parametrize("entries", [CATALOG[1:], CATALOG[:-1], ()])
def test_missing_entries_are_noticed(entries: tuple[RawEntry, ...]) -> None:
    assert rejected(entries, at=position(CATALOG)) == accept_module.ROOT_DIGEST_MISMATCH


def test_disorder_and_repetition_are_refused() -> None:
    assert rejected(CATALOG[::-1]) == accept_module.ENTRIES_NOT_ORDERED
    assert rejected((CATALOG[0], *CATALOG)) == accept_module.ENTRIES_NOT_ORDERED


def test_an_entry_under_another_name_is_refused() -> None:
    assert rejected((raw(model("a"), name="models/z"),)) == accept_module.NAME_MISMATCH


def test_two_resources_of_one_served_name_are_refused() -> None:
    twin = model("b")
    twin.served_name = "a"
    assert rejected(raws(model("a"), twin)) == accept_module.SERVED_NAME_CONFLICT


def test_an_adapter_without_its_base_is_refused() -> None:
    assert rejected(raws(adapter("a", "x"), model("b"))) == accept_module.BASE_MODEL_MISSING


def test_an_adapter_is_no_base() -> None:
    other = adapter("a", "y")
    other.model = "models/a/adapters/x"
    assert rejected(raws(model("a"), adapter("a", "x"), other)) == accept_module.BASE_MODEL_MISSING


# --- faults of one entry


def test_an_unknown_type_is_quarantined_alone() -> None:
    newer = raw(model("r"), name="widgets/r", type_="broadsheet.v1.WidgetEntry")
    snapshot = accepted((*CATALOG, newer))
    assert snapshot.quarantined["widgets/r"].reason == accept_module.TYPE_UNKNOWN
    assert len(snapshot.served) == 5
    assert len(snapshot.entries) == 6


PIN = views.pinned(model("a", number=4))
ROUTED = raws(
    model("a"), adapter("a", "x"), PIN, views.route("r", {"models/a": 1, "models/a/revisions/4": 2}, served_name="chat")
)


def test_routes_and_pinned_revisions_are_indexed() -> None:
    snapshot = accepted(ROUTED)
    assert snapshot.served["chat"] is snapshot.routes["routes/r"]
    pinned = snapshot.deployable["models/a/revisions/4"]
    assert (pinned.name, pinned.uid, pinned.revision.number) == ("models/a/revisions/4", "uid-a", 4)
    assert set(snapshot.deployable) == {"models/a", "models/a/revisions/4"}
    assert set(snapshot.models) == {"models/a"}
    assert accepted(ROUTED, held=snapshot).routes == snapshot.routes


def test_a_pinned_adapter_revision_has_an_engine_side_name_of_its_own() -> None:
    pin = snapshot_pb2.AdapterRevisionEntry(
        name="models/a/adapters/x/revisions/1", adapter="models/a/adapters/x", revision=adapter("a", "x").revision
    )
    snapshot = accepted(raws(model("a"), adapter("a", "x"), pin))
    pinned = snapshot.pinned_adapters[pin.name]
    assert pinned.model == "models/a"
    assert engine_adapter_name(pinned) != engine_adapter_name(snapshot.adapters["models/a/adapters/x"])


@pytest.mark.parametrize("missing", ["models/a", "models/a/revisions/4"])
def test_a_route_to_something_that_is_missing_is_refused(missing: str) -> None:
    reason = rejected(tuple(entry for entry in ROUTED if entry.name not in (missing, "models/a/adapters/x")))
    assert reason == (accept_module.BASE_MODEL_MISSING if missing == "models/a" else accept_module.ROUTE_TARGET_MISSING)


def test_a_route_with_the_served_name_of_a_model_is_refused() -> None:
    route = views.route("r", {"models/a": 1}, served_name="a")
    assert rejected(raws(model("a"), route)) == accept_module.SERVED_NAME_CONFLICT


@pytest.mark.parametrize(
    "targets", [{}, {"models/a": 0}, {"models/a": 10**6}, {"routes/r": 1}, {f"models/m{n}": 1 for n in range(17)}]
)
def test_a_route_that_breaks_a_rule_is_quarantined_alone(targets: dict[str, int]) -> None:
    route = views.route("r", targets)
    there = [model(name.removeprefix("models/")) for name in targets if name.startswith("models/m")]
    snapshot = accepted(raws(model("a"), *there, route))
    assert snapshot.quarantined["routes/r"].reason == accept_module.ENTRY_INVALID
    assert not snapshot.routes
    assert "a" in snapshot.served


def test_a_pin_that_is_not_what_its_name_says_is_quarantined_alone() -> None:
    pin = snapshot_pb2.ModelRevisionEntry()
    pin.CopyFrom(PIN)
    pin.revision.number = 5
    snapshot = accepted(raws(model("a"), pin))
    assert snapshot.quarantined["models/a/revisions/4"].reason == accept_module.ENTRY_INVALID
    assert set(snapshot.deployable) == {"models/a"}


def test_a_route_is_served_though_one_of_its_targets_is_quarantined() -> None:
    route = views.route("r", {"models/a": 1, "models/b": 1})
    snapshot = accepted(raws(model("a"), model("b", uri="s3://nowhere/b"), route))
    assert set(snapshot.served) == {"a", "r"}


def test_a_pinned_revision_is_served_though_the_models_own_is_quarantined() -> None:
    snapshot = accepted(raws(model("a", uri="s3://nowhere/a"), PIN, views.route("r", {"models/a/revisions/4": 1})))
    assert set(snapshot.deployable) == {"models/a/revisions/4"}


def test_a_revision_that_is_rolled_out_is_indexed_as_a_model_of_its_own() -> None:
    snapshot = accepted(raws(views.with_candidate(model("a"), model("a", number=2), 10)))
    assert set(snapshot.deployable) == {"models/a", "models/a/revisions/2"}
    assert snapshot.deployable["models/a/revisions/2"].revision.number == 2
    assert not snapshot.quarantined


@pytest.mark.parametrize(("number", "percent"), [(1, 10), (2, 0), (2, 100)])
def test_a_candidate_that_makes_no_sense_is_quarantined_without_its_model(number: int, percent: int) -> None:
    snapshot = accepted(raws(views.with_candidate(model("a"), model("a", number=number), percent)))
    assert snapshot.quarantined[f"models/a/revisions/{number}"].reason == accept_module.ENTRY_INVALID
    assert set(snapshot.deployable) == {"models/a"}


def test_a_candidate_from_a_place_that_is_not_allowed_is_quarantined_without_its_model() -> None:
    entry = views.with_candidate(model("a"), model("a", number=2, uri="file:///elsewhere"), 10)
    policy = replace(POLICY, allowed_sources=("file:///models",))
    snapshot = accepted(raws(entry), policy=policy)
    assert snapshot.quarantined["models/a/revisions/2"].reason == accept_module.SOURCE_NOT_ALLOWED
    assert set(snapshot.deployable) == {"models/a"}
    assert "a" in snapshot.served


def test_an_unreadable_blob_is_quarantined_alone() -> None:
    snapshot = accepted((*CATALOG, raw(model("c"), blob=b"\xff\xff")))
    assert snapshot.quarantined["models/c"].reason == accept_module.BLOB_UNREADABLE
    assert "c" not in snapshot.served


def test_an_entry_that_breaks_a_rule_is_quarantined_alone_and_says_which() -> None:
    wrong = model("c")
    wrong.revision.spec.scaling.min_replicas = -1
    snapshot = accepted(raws(model("a"), wrong))
    assert snapshot.quarantined["models/c"].reason == accept_module.ENTRY_INVALID
    assert "revision.spec.scaling.min_replicas: got -1" in snapshot.quarantined["models/c"].message
    assert snapshot.quarantined["models/c"].revision_number == 1


def _with_served_name(served_name: str) -> RawEntry:
    wrong = model("c")
    wrong.served_name = served_name
    return raw(wrong)


def _without_source() -> RawEntry:
    wrong = model("c")
    wrong.revision.spec.ClearField("source")
    return raw(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        _with_served_name(""),
        _with_served_name("with space"),
        _without_source(),
        raw(model("c", number=0)),
        raw(model("C")),
    ],
)
def test_what_the_protos_cannot_state_is_checked_too(wrong: RawEntry) -> None:
    snapshot = accepted(tuple(sorted((raw(model("a")), wrong), key=lambda entry: entry.name)))
    assert snapshot.quarantined[wrong.name].reason == accept_module.ENTRY_INVALID
    assert set(snapshot.served) == {"a"}


def test_a_simulated_model_needs_no_source() -> None:
    simulated = model("c")
    simulated.revision.spec.ClearField("source")
    simulated.revision.spec.engine.kind = model_pb2.Engine.KIND_SIMULATED
    assert "c" in accepted(raws(simulated)).served


def test_a_source_that_is_not_allowed_is_quarantined_with_the_models_adapters() -> None:
    entries = raws(model("a", uri="hf://org/name"), adapter("a", "x"), model("b", uri="file:///models/b"))
    snapshot = accepted(entries, policy=Policy(allowed_sources=("file:///",)))
    assert snapshot.quarantined["models/a"].reason == accept_module.SOURCE_NOT_ALLOWED
    assert snapshot.quarantined["models/a/adapters/x"].reason == accept_module.BASE_MODEL_QUARANTINED
    assert set(snapshot.served) == {"b"}


def test_an_adapter_at_a_place_that_is_not_allowed_is_quarantined_alone() -> None:
    entries = raws(model("a"), adapter("a", "x", uri="file:///elsewhere/x"), adapter("a", "y"))
    snapshot = accepted(entries, policy=Policy(allowed_sources=("file:///models", "file:///adapters/")))
    assert set(snapshot.served) == {"a", "a:y"}
    assert set(snapshot.quarantined) == {"models/a/adapters/x"}


@pytest.mark.parametrize(
    ("uri", "prefix", "allowed"),
    [
        ("file:///models/a", "file:///models", True),
        ("file:///models", "file:///models", True),
        ("file:///models-of-others/a", "file:///models", False),
        ("file:///models/../etc", "file:///models", False),
        ("file:///models/%2e%2E/etc", "file:///models", False),
        ("file:///models/..%2fetc", "file:///models", False),
        ("file:///models/..", "file:///models", False),
        ("file:///models/a..b/.c", "file:///models", True),
        ("hf://org/name", "hf://", True),
        ("hf://org/name", "hf://org", True),
        ("hf://organisation/name", "hf://org", False),
        ("file:///a", "", False),
    ],
)
def test_prefixes_of_sources_end_at_path_segments(uri: str, prefix: str, allowed: bool) -> None:
    assert source_allowed(uri, (prefix,)) is allowed


# --- what is held


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


@given(before=_SOME, after=_SOME, number=st.integers(1, 2))
def test_what_is_held_changes_nothing_of_what_is_accepted(
    before: tuple[RawEntry, ...], after: tuple[RawEntry, ...], number: int
) -> None:
    after = (raw(model("a", number=number)), *after[1:])
    held = accepted(before)
    assert accept(position(after, 2), after, held=held, policy=POLICY) == accept(
        position(after, 2), after, held=None, policy=POLICY
    )
    if before != after:
        assert rejected(before, at=position(after, 2), held=held) == accept_module.ROOT_DIGEST_MISMATCH


def test_a_held_snapshot_does_not_move() -> None:
    held = accepted(CATALOG)
    before = (dict(held.models), dict(held.served), held.entries)
    accepted(raws(model("a", number=9)), held=held)
    assert (dict(held.models), dict(held.served), held.entries) == before


def test_what_was_quarantined_is_looked_at_again() -> None:
    entries = raws(model("a", uri="hf://org/name"), adapter("a", "x"))
    held = accepted(entries, policy=Policy(allowed_sources=("file:///",)))
    assert not held.served
    assert set(accepted(entries, held=held).served) == {"a", "a:x"}


# --- fuzz


def _chunks(entries: tuple[RawEntry, ...]) -> list[bytes]:
    half = len(entries) // 2
    return [
        pb.Chunk(entries=[entry_proto(entry) for entry in part]).SerializeToString()
        for part in (entries[:half], entries[half:])
    ]


def _receive(at: Position, chunks: list[bytes]) -> Snapshot | Rejection | None:
    """None: a chunk was no message."""
    assembler = Assembler(at, len(CATALOG), Limits())
    for chunk in chunks:
        try:
            message = pb.Chunk.FromString(chunk)
        except DecodeError:
            return None
        rejection = assembler.add(message.entries)
        if rejection is not None:
            return rejection
    entries = assembler.complete()
    return entries if isinstance(entries, Rejection) else accept(at, entries, held=None, policy=POLICY)


@settings(max_examples=3000, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_never_makes_another_snapshot(data: st.DataObject) -> None:
    chunks = _chunks(CATALOG)
    which = data.draw(st.integers(0, len(chunks) - 1))
    byte = data.draw(st.integers(0, len(chunks[which]) - 1))
    damaged = bytearray(chunks[which])
    damaged[byte] ^= 1 << data.draw(st.integers(0, 7))
    chunks[which] = bytes(damaged)
    outcome = _receive(position(CATALOG), chunks)
    if isinstance(outcome, Snapshot):
        assert outcome.entries == CATALOG
        assert not outcome.quarantined


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_truncated_and_spliced_chunks_never_make_another_snapshot(data: st.DataObject) -> None:
    chunks = _chunks(CATALOG)
    which = data.draw(st.integers(0, len(chunks) - 1))
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(chunks[which]))] * 2)))
    chunks[which] = chunks[which][:begin] + data.draw(st.binary(max_size=40)) + chunks[which][end:]
    outcome = _receive(position(CATALOG), chunks)
    if isinstance(outcome, Snapshot):
        assert outcome.entries == CATALOG


# --- assembling


def test_limits_hold_while_a_snapshot_arrives() -> None:
    at = position(CATALOG)
    chunk = [entry_proto(entry) for entry in CATALOG]
    size = sum(len(entry.name) + len(entry.type) + len(entry.blob) for entry in CATALOG)
    assert Assembler(at, 5, Limits(total_bytes_max=size)).add(chunk) is None
    for limits, reason in (
        (Limits(total_bytes_max=size - 1), accept_module.SNAPSHOT_TOO_LARGE),
        (Limits(blob_bytes_max=20), accept_module.BLOB_TOO_LARGE),
    ):
        rejection = Assembler(at, 5, limits).add(chunk)
        assert rejection is not None
        assert rejection.reason == reason


@pytest.mark.parametrize("count", [-1, 6])
def test_an_announcement_beyond_the_limit_is_refused(count: int) -> None:
    rejection = Assembler(position(CATALOG), count, Limits(entries_max=5)).announced()
    assert rejection is not None
    assert rejection.reason == accept_module.SNAPSHOT_TOO_LARGE


def test_another_number_of_entries_than_announced_is_refused() -> None:
    chunk = [entry_proto(entry) for entry in CATALOG]
    too_many = Assembler(position(CATALOG), 4, Limits()).add(chunk)
    assert too_many is not None
    assert too_many.reason == accept_module.ENTRY_COUNT_MISMATCH
    assembler = Assembler(position(CATALOG), 6, Limits())
    assert assembler.add(chunk) is None
    too_few = assembler.complete()
    assert isinstance(too_few, Rejection)
    assert too_few.reason == accept_module.ENTRY_COUNT_MISMATCH


# --- API keys


def test_keys_are_indexed_by_hash_and_are_no_models() -> None:
    entries = raws(model("a"), api_key("alice", "bs-a"), api_key("bob", "bs-b", revoked=True))
    snapshot = accepted(entries)
    assert set(snapshot.models) == {"models/a"}
    assert set(snapshot.served) == {"a"}
    assert set(snapshot.api_key_entries) == {"apiKeys/alice", "apiKeys/bob"}
    assert {key.name for key in snapshot.api_keys.values()} == {"apiKeys/alice"}
    assert snapshot.has_api_keys
    assert not accepted(raws(model("a"))).has_api_keys
    # What is the same as before is taken from there.
    later = accepted(raws(*[model("a"), model("b")], api_key("alice", "bs-a")), held=snapshot)
    assert later.api_key_entries["apiKeys/alice"] is snapshot.api_key_entries["apiKeys/alice"]


def test_a_damaged_key_is_quarantined_alone_and_still_closes_the_door() -> None:
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
