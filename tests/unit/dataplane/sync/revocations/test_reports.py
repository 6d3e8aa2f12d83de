from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.revoked_keys import RevocationsPosition
from dataplane.snapshot.snapshot import Position
from dataplane.sync.revocations.reports import RevocationReports
from tests.revoking import batch

SERVING = Position(store_uid="store", revision=3, digest=bytes(32))


def at(sequence: int, store_uid: str = "store") -> RevocationsPosition:
    return RevocationsPosition(store_uid=store_uid, sequence=sequence)


def intent(store_uid: str = "store") -> pb.SyncResponse:
    position = Position(store_uid=store_uid, revision=3, digest=bytes(32))
    return pb.SyncResponse(intent=pb.Intent(mode=pb.Intent.MODE_NONE, to=position.to_proto()))


def taken(reports: RevocationReports, serving: Position | None = SERVING) -> pb.Status | None:
    message = reports.take_message(serving, with_errors=False)
    return message.status if message is not None else None


def opened(store_uid: str = "store") -> RevocationReports:
    reports = RevocationReports()
    reports.open()
    reports.receive(intent(store_uid))
    return reports


def test_hello_says_what_is_kept_and_that_revocations_are_taken() -> None:
    reports = RevocationReports()
    reports.kept = at(7)
    hello = reports.fill(pb.SyncRequest(hello=pb.Hello(features=[pb.FEATURE_DELTA]))).hello
    assert list(hello.features) == [pb.FEATURE_DELTA, pb.FEATURE_REVOCATIONS]
    assert (hello.revocations_sequence, hello.revocations_store_uid) == (7, "store")


def test_what_is_applied_is_said_at_once_and_then_with_each_status() -> None:
    reports = opened()
    assert taken(reports) is None
    reports.apply(at(4), "")
    said = taken(reports)
    assert said is not None
    assert (said.revocations_sequence, said.serving, said.HasField("target")) == (4, SERVING.to_proto(), False)
    assert taken(reports) is None
    assert reports.fill(pb.SyncRequest(status=pb.Status())).status.revocations_sequence == 4


def test_a_status_that_is_due_anyway_says_it_and_no_other_follows() -> None:
    reports = opened()
    reports.apply(at(4), "")
    assert reports.fill(pb.SyncRequest(status=pb.Status())).status.revocations_sequence == 4
    assert taken(reports) is None


def test_it_is_said_before_there_is_a_snapshot() -> None:
    reports = opened()
    reports.apply(at(4), "a warning")
    said = taken(reports, serving=None)
    assert said == pb.Status(revocations_sequence=4)
    assert taken(reports, serving=None) is None


def test_the_number_of_another_store_is_not_taken_for_one_of_this_store() -> None:
    reports = opened("restored")
    reports.apply(at(9), "")
    assert reports.fill(pb.SyncRequest(status=pb.Status())).status.revocations_sequence == 0
    reports.apply(at(2, "restored"), "")
    assert reports.fill(pb.SyncRequest(status=pb.Status())).status.revocations_sequence == 2


def test_a_new_stream_learns_what_is_applied_as_soon_as_its_store_is_known() -> None:
    reports = opened()
    reports.apply(at(4), "")
    taken(reports)
    reports.open()
    assert taken(reports) is None
    heartbeat = pb.SyncResponse(heartbeat=pb.Heartbeat(head=SERVING.to_proto()))
    assert reports.receive(heartbeat) is None
    said = taken(reports)
    assert said is not None
    assert said.revocations_sequence == 4


def test_a_warning_is_shown_with_the_snapshot_in_service_until_it_is_over() -> None:
    reports = opened()
    reports.apply(at(4), "not on disk")
    first = taken(reports)
    assert first is not None
    assert (first.target, first.serving, first.phase, first.message) == (
        SERVING.to_proto(),
        SERVING.to_proto(),
        pb.PHASE_ACTIVE,
        "not on disk",
    )
    reports.apply(at(5), "not on disk")
    same = taken(reports)
    assert same is not None
    assert not same.HasField("target"), "it is said once"
    reports.open()
    again = taken(reports)
    assert again is not None
    assert again.message == "not on disk", "to a new stream once more"
    reports.apply(at(6), "")
    over = reports.take_message(SERVING, with_errors=True)
    assert over is not None
    assert (over.status.phase, over.status.message) == (pb.PHASE_ACTIVE_WITH_ERRORS, "")


def test_revocations_are_told_from_other_messages() -> None:
    reports = opened()
    sent = batch("a")
    assert reports.receive(pb.SyncResponse(revocations=sent)) == sent
    assert reports.receive(pb.SyncResponse(chunk=pb.Chunk())) is None
