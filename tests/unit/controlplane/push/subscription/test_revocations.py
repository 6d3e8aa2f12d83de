from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.revocations import BatchRequest, RevocationPointers


def greeted(newest: int, *, has: int = 0, store_uid: str = "store", takes: bool = True) -> RevocationPointers:
    pointers = RevocationPointers(newest_sequence=newest)
    hello = pb.Hello(
        features=[pb.FEATURE_REVOCATIONS] if takes else [pb.FEATURE_DELTA],
        revocations_sequence=has,
        revocations_store_uid=store_uid if has else "",
    )
    pointers.receive(pb.SyncRequest(hello=hello), store_uid="store")
    return pointers


def applies(pointers: RevocationPointers, sequence: int) -> int:
    pointers.receive(pb.SyncRequest(status=pb.Status(revocations_sequence=sequence)), store_uid="store")
    return pointers.applied


def test_nothing_is_sent_before_hello() -> None:
    assert RevocationPointers(newest_sequence=3).next_batch is None


def test_a_client_gets_what_it_lacks() -> None:
    assert greeted(5, has=2).next_batch == BatchRequest(after_sequence=2, newest_sequence=5)
    assert greeted(5).next_batch == BatchRequest(after_sequence=0, newest_sequence=5)
    assert greeted(5, has=5).next_batch is None


def test_a_client_of_an_earlier_release_gets_none_and_stays_behind() -> None:
    pointers = greeted(5, takes=False)
    assert pointers.next_batch is None
    pointers.publish(6)
    assert pointers.next_batch is None
    assert applies(pointers, 6) == 0
    assert pointers.is_behind


def test_a_client_of_another_store_gets_all() -> None:
    assert greeted(5, has=4, store_uid="before the restore").next_batch == BatchRequest(
        after_sequence=0, newest_sequence=5
    )


def test_a_client_that_has_more_than_the_store_gets_all() -> None:
    assert greeted(5, has=6).next_batch == BatchRequest(after_sequence=0, newest_sequence=5)


def test_revocations_that_come_together_are_one_batch() -> None:
    pointers = greeted(0)
    for sequence in (1, 3, 2):
        pointers.publish(sequence)
    assert pointers.next_batch == BatchRequest(after_sequence=0, newest_sequence=3)
    pointers.sent(3)
    assert pointers.next_batch is None


def test_what_was_not_sent_does_not_count_as_applied() -> None:
    pointers = greeted(5, has=2)
    assert applies(pointers, 2**62) == 2
    pointers.sent(5)
    assert applies(pointers, 5) == 5
    assert not pointers.is_behind
    assert applies(pointers, 0) == 5, "a Status that does not say is no step back"


@given(st.lists(st.tuples(st.sampled_from(("publish", "send", "report")), st.integers(0, 30))))
def test_every_revocation_is_sent_once_in_order(steps: list[tuple[str, int]]) -> None:
    pointers, newest, received = greeted(0), 0, list[int]()
    for step, number in steps:
        if step == "publish":
            newest = max(newest, number)
            pointers.publish(number)
        elif step == "report":
            assert applies(pointers, number) <= len(received)
        elif (request := pointers.next_batch) is not None:
            last = min(request.after_sequence + 4, newest)
            pointers.sent(last)
            received += range(request.after_sequence + 1, last + 1)
        assert received == list(range(1, len(received) + 1))
        assert (pointers.next_batch is None) == (len(received) == newest)
