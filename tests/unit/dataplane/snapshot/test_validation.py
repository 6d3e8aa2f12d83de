"""An ingress replica reuses the agent's validation result, but never accepts altered bytes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.relay.messages import SerializedSnapshot
from dataplane.snapshot import entry_checks, rejection
from dataplane.snapshot.accept import accept
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Message, RawEntry, Snapshot
from dataplane.snapshot.validation import trusted_quarantines, validation_result, validation_rules
from protocol.catalog_digest import blob_digest
from tests import views
from tests.raw import POLICY, adapter, model, position, raw, raws

RULES = validation_rules("1.0", POLICY)
ELSEWHERE = model("elsewhere", uri="file:///nowhere/../etc")
ROLLED_OUT = views.with_candidate(model("rolled-out"), model("rolled-out", uri="hf://a/b", number=2), 100)
ENTRIES = tuple(
    sorted(
        (
            *raws(model("a"), adapter("a", "x"), ELSEWHERE, adapter("elsewhere", "x")),
            *raws(
                ROLLED_OUT,
                views.pinned(model("rolled-out", uri="hf://a/b", number=2)),
                views.route("r", {"models/a": 1}),
            ),
            *raws(views.api_key("alice", "bs-a"), views.api_key("wide", "bs-w", "[a-z]")),
            raw(model("newer"), name="widgets/newer", type_="broadsheet.v1.WidgetEntry"),
            RawEntry(
                name="models/unreadable", type="broadsheet.v1.ModelEntry", digest=blob_digest(b"\xff"), blob=b"\xff"
            ),
        ),
        key=lambda entry: entry.name,
    )
)


def checked(entries: tuple[RawEntry, ...], revision: int = 1) -> Snapshot:
    """The snapshot that the agent accepts."""
    outcome = accept(position(entries, revision), entries, held=None, policy=POLICY)
    assert isinstance(outcome, Snapshot), outcome
    return outcome


def relayed(post: SerializedSnapshot, *, rules: str = RULES, held: Snapshot | None = None) -> Snapshot | Rejection:
    """The outcome in an ingress replica for what the agent relays."""
    post = pickle.loads(pickle.dumps(post))  # noqa: S301  # as Ray does
    found = trusted_quarantines(post.validation, post.position, rules)
    return accept(post.position, post.entries(), held=held, policy=POLICY, found=found)


def post_of(snapshot: Snapshot) -> SerializedSnapshot:
    return SerializedSnapshot.of(snapshot, validation_result(snapshot, RULES))


def test_a_relayed_snapshot_equals_that_of_the_agent() -> None:
    snapshot = checked(ENTRIES)
    assert set(snapshot.quarantined) == {
        *("models/elsewhere", "models/elsewhere/adapters/x", "models/rolled-out/revisions/2"),
        *("apiKeys/wide", "widgets/newer", "models/unreadable"),
    }
    assert "models/rolled-out/revisions/2" in snapshot.deployable  # pinned, while the candidate is quarantined
    assert relayed(post_of(snapshot)) == snapshot
    assert relayed(post_of(snapshot), held=checked(ENTRIES[:1], revision=0)) == snapshot


def test_entries_that_the_agent_has_validated_are_not_validated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    post = post_of(checked(raws(model("a"), adapter("a", "x"))))
    validated: list[object] = []

    def violations_of(message: Message) -> tuple[()]:
        validated.append(message)
        return ()

    monkeypatch.setattr(entry_checks, "violations_of", violations_of)
    assert isinstance(relayed(post), Snapshot)
    assert not validated
    assert isinstance(relayed(post, rules=validation_rules("1.1", POLICY)), Snapshot)
    assert len(validated) == 2


Alter = Callable[[SerializedSnapshot, int], SerializedSnapshot]


def with_blob(post: SerializedSnapshot, at: int, blob: bytes) -> SerializedSnapshot:
    return replace(post, blobs=(*post.blobs[:at], blob, *post.blobs[at + 1 :]))


def with_other_bytes(post: SerializedSnapshot, at: int) -> SerializedSnapshot:
    return with_blob(post, at, post.blobs[at] + b"\x00")


def with_other_bytes_and_their_digest(post: SerializedSnapshot, at: int) -> SerializedSnapshot:
    other = snapshot_pb2.ModelEntry.FromString(post.blobs[at])
    other.revision.card.description = "altered"
    blob = other.SerializeToString()
    altered = with_blob(post, at, blob)
    return replace(altered, digests=(*post.digests[:at], blob_digest(blob), *post.digests[at + 1 :]))


def without_entry(post: SerializedSnapshot, at: int) -> SerializedSnapshot:
    names, types, digests, blobs = (
        (*column[:at], *column[at + 1 :]) for column in (post.names, post.types, post.digests, post.blobs)
    )
    return replace(post, names=names, types=types, digests=digests, blobs=blobs)


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (with_other_bytes, rejection.BLOB_DIGEST_MISMATCH),
        (with_other_bytes_and_their_digest, rejection.ROOT_DIGEST_MISMATCH),
        (without_entry, rejection.ROOT_DIGEST_MISMATCH),
    ],
)
def test_altered_entries_are_refused_despite_a_validation_result(alter: Alter, reason: str, is_held: bool) -> None:
    snapshot = checked(ENTRIES)
    post = post_of(snapshot)
    outcome = relayed(alter(post, post.names.index("models/a")), held=snapshot if is_held else None)
    assert isinstance(outcome, Rejection)
    assert outcome.reason == reason


def test_a_damaged_validation_result_is_not_trusted() -> None:
    snapshot = checked(ENTRIES)
    post = post_of(snapshot)
    nothing = replace(post, validation=replace(post.validation, quarantined={}))
    assert relayed(nothing) == snapshot
    others = replace(post, validation=validation_result(checked(ENTRIES, revision=2), RULES))
    assert trusted_quarantines(others.validation, post.position, RULES) is None


def test_a_validation_result_by_other_rules_is_not_trusted() -> None:
    narrow = Policy(allowed_sources=("hf://",))
    found = validation_result(checked(ENTRIES), RULES)
    assert trusted_quarantines(found, checked(ENTRIES).position, RULES) == found.quarantined
    wide = replace(POLICY, allowed_engine_args=("trust_remote_code",))
    for rules in (validation_rules("1.1", POLICY), validation_rules("1.0", narrow), validation_rules("1.0", wide)):
        assert trusted_quarantines(found, checked(ENTRIES).position, rules) is None


def test_api_keys_are_checked_despite_a_validation_result() -> None:
    entries = raws(views.api_key("wide", "bs-w", "[a-z]"))
    outcome = accept(position(entries), entries, held=None, policy=POLICY, found={})
    assert isinstance(outcome, Snapshot)
    assert (set(outcome.quarantined), dict(outcome.api_keys)) == ({"apiKeys/wide"}, {})
