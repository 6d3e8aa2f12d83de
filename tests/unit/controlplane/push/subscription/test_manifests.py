"""Manifests on a stream, as the state machine sends them."""

from __future__ import annotations

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Position
from controlplane.push.subscription.goodbyes import ANSWER_TIMEOUT
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from controlplane.push.subscription.transfer import ChangeRequest, RefsRequest, WantedRequest, written_of
from tests.unit.controlplane.push.subscription.client import (
    LIMITS,
    active,
    at,
    digest_of,
    entries,
    head,
    hello,
    refs,
    refused,
    send_all,
    status,
    want,
)


def behind(*, entry_count: int = 3, takes_changes: bool = True) -> Subscription:
    """A client that serves revision 1 and takes manifests. The head is revision 5."""
    subscription = Subscription(head=head(5, entry_count), limits=LIMITS, now_s=0)
    subscription.receive(hello(at(1), takes_changes=takes_changes, takes_manifests=True), 0)
    return subscription


def announced(subscription: Subscription) -> pb.Intent:
    """The next Intent, of a client whose change cannot be sent."""
    output = subscription.take_output(0)
    if isinstance(output, ChangeRequest):
        output = subscription.announce(output, can_send_change=False)
    assert isinstance(output, pb.SyncResponse)
    return output.intent


def with_refs(*names: str) -> Subscription:
    """A stream on which the first chunk of refs has been written."""
    subscription = behind(entry_count=len(names) + 1)
    assert announced(subscription).mode == pb.Intent.MODE_MANIFEST
    assert isinstance(subscription.take_output(0), RefsRequest)
    subscription.chunk_written(written_of(refs(*names)))
    assert subscription.state is State.WANT_EXPECTED
    return subscription


def in_use(subscription: Subscription) -> int | None:
    return subscription.oldest_in_use


def test_a_client_behind_what_is_kept_gets_a_manifest_and_what_it_wants_of_each_chunk() -> None:
    subscription = behind()
    intent = announced(subscription)
    assert (intent.mode, intent.to, intent.entry_count) == (pb.Intent.MODE_MANIFEST, position_to_proto(at(5)), 3)
    assert subscription.take_output(0) == RefsRequest(position=at(5), after_name="")
    subscription.chunk_written(written_of(refs("a", "b")))
    assert subscription.take_output(0) is None
    subscription.receive(want(at(5), digest_of("b")), 1)
    assert subscription.take_output(1) == WantedRequest(position=at(5), names=("b",), after_name="")
    subscription.chunk_written(written_of(entries("b")))
    assert subscription.take_output(1) == RefsRequest(position=at(5), after_name="b")
    subscription.chunk_written(written_of(refs("c")))
    subscription.receive(want(at(5)), 2)
    commit = subscription.take_output(2)
    assert isinstance(commit, pb.SyncResponse)
    assert commit.commit.to == position_to_proto(at(5))
    subscription.receive(active(at(5)), 3)
    assert subscription.settled


def test_of_a_manifest_no_more_than_a_chunk_of_refs_is_held() -> None:
    subscription = with_refs("a", "b")
    subscription.receive(want(at(5), digest_of("b")), 0)
    assert subscription._transfer is not None
    assert (subscription._transfer.refs, subscription._transfer._wanted) == ({}, ("b",))
    subscription.take_output(0)
    subscription.chunk_written(written_of(entries("b")))
    assert subscription._transfer._wanted == ()


def test_wanted_entries_may_take_several_chunks() -> None:
    subscription = with_refs("a", "b", "c")
    subscription.receive(want(at(5), *map(digest_of, "cab")), 0)
    subscription.take_output(0)
    subscription.chunk_written(written_of(entries("a", "b")))
    assert subscription.take_output(0) == WantedRequest(position=at(5), names=("a", "b", "c"), after_name="b")
    subscription.chunk_written(written_of(entries("c")))
    assert isinstance(subscription.take_output(0), RefsRequest)


def test_all_entries_with_a_wanted_digest_are_sent() -> None:
    subscription = behind()
    announced(subscription)
    subscription.take_output(0)
    chunk = refs("a", "b")
    chunk.refs[1].digest = chunk.refs[0].digest
    subscription.chunk_written(written_of(chunk))
    subscription.receive(want(at(5), digest_of("a")), 0)
    assert subscription.take_output(0) == WantedRequest(position=at(5), names=("a", "b"), after_name="")


@pytest.mark.parametrize(
    ("have", "manifests", "mode"),
    [
        (at(1), True, pb.Intent.MODE_MANIFEST),
        (at(9), True, pb.Intent.MODE_MANIFEST),
        (at(1, store_uid="other"), True, pb.Intent.MODE_MANIFEST),
        (at(1), False, pb.Intent.MODE_FULL),
        (None, True, pb.Intent.MODE_FULL),
    ],
)
def test_a_manifest_needs_something_to_compare_with_and_a_client_that_takes_it(
    have: Position | None, manifests: bool, mode: pb.Intent.Mode.ValueType
) -> None:
    subscription = Subscription(head=head(5), limits=LIMITS, now_s=0)
    subscription.receive(hello(have, takes_manifests=manifests), 0)
    assert announced(subscription).mode == mode


def test_a_change_that_did_not_come_out_is_followed_by_a_manifest_and_that_by_the_whole_snapshot() -> None:
    subscription = behind()
    assert send_all(subscription) == ["change", "chunk", "chunk", "commit"]
    subscription.receive(want(at(5)), 0)
    assert announced(subscription).mode == pb.Intent.MODE_MANIFEST
    assert send_all(subscription) == ["refs"]
    for number in (2, 3):
        subscription.receive(want(at(5)), 0)
        assert send_all(subscription) == ["refs"], number
    subscription.receive(want(at(5), digest_of("0003")), 0)
    assert send_all(subscription) == ["wanted", "commit"]
    subscription.receive(want(at(5)), 0)
    assert announced(subscription).mode == pb.Intent.MODE_FULL
    assert send_all(subscription) == ["chunk", "chunk", "chunk", "commit"]
    assert "another time" in refused(subscription, want(at(5))).message
    subscription.receive(active(at(5)), 0)
    subscription.publish(head(6))
    assert send_all(subscription)[0] == "change", "later changes are sent as changes again"


def test_commits_coalesce_while_a_manifest_is_under_way() -> None:
    subscription = with_refs("a")
    for revision in range(6, 50):
        subscription.publish(head(revision))
        assert send_all(subscription) == []
    assert in_use(subscription) == 5
    subscription.receive(status(at(5), pb.PHASE_REJECTED, serving=at(1), reason="STORE_UID_MISMATCH"), 0)
    assert in_use(subscription) is None
    assert subscription.take_output(0) == ChangeRequest(base=at(1), head=head(49))


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (want(at(5), digest_of("z")), "not in the last chunk"),
        (want(at(5), digest_of("a"), digest_of("a")), "twice"),
        (want(at(5), b"short"), "invalid"),
        (want(at(5), *(bytes([number % 256, number // 256]) * 16 for number in range(20_001))), "invalid"),
        (want(at(4)), "not the snapshot that was sent last"),
        (active(at(5)), "before its Commit"),
    ],
)
def test_a_hostile_answer_to_refs_is_refused_and_changes_nothing(request_: pb.SyncRequest, complaint: str) -> None:
    subscription = with_refs("a", "b")
    assert complaint in refused(subscription, request_).message
    subscription.receive(want(at(5), digest_of("a")), 5)
    assert isinstance(subscription.take_output(5), WantedRequest)


def test_a_want_comes_once_for_each_chunk_and_not_before_it() -> None:
    subscription = behind()
    announced(subscription)
    assert "another time" in refused(subscription, want(at(5))).message
    subscription.take_output(0)
    subscription.chunk_written(written_of(refs("a")))
    subscription.receive(want(at(5)), 0)
    assert "another time" in refused(subscription, want(at(5))).message


def test_digests_after_a_commit_are_refused() -> None:
    subscription = behind()
    assert send_all(subscription)[-1] == "commit"
    assert "after a Commit there are none" in refused(subscription, want(at(5), digest_of("a"))).message


def test_a_missing_want_ends_the_stream() -> None:
    subscription = with_refs("a")
    for now_s in range(0, 120, 30):
        subscription.take_output(now_s)
        subscription.receive(status(serving=at(1)), now_s)
    assert subscription.overdue(119) is None
    output = subscription.take_output(120)
    assert isinstance(output, pb.SyncResponse)
    assert output.goodbye.reason == ANSWER_TIMEOUT


def test_an_empty_snapshot_has_an_empty_manifest() -> None:
    subscription = behind(entry_count=0)
    assert announced(subscription).mode == pb.Intent.MODE_MANIFEST
    assert send_all(subscription) == ["commit"]
