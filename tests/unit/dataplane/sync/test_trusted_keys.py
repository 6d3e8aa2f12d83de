"""Trusted keys: only what one of them has signed is taken, and a mistake heals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.snapshot_pb2 import SnapshotHead
from dataplane.snapshot.accept import accept
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.events import Candidate, Identity, Refused
from dataplane.sync.rejections import REJECTED_MAX
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.trusted_keys import TrustedKeys, TrustedKeysChanged, TrustedKeysUnusable
from protocol.signing.heads import SIGNED_HEAD_BYTES_MAX, sign_head
from protocol.signing.signatures import KEY_NOT_TRUSTED, SIGNATURE_INVALID, SIGNATURE_MISSING
from tests.disk import raise_disk_full
from tests.raw import POLICY, adapter, entry_proto, model, position, raws
from tests.signing import private_key, signer, write_public_keys
from tests.stream.sync_world import eventually

ENTRIES = raws(model("a"), adapter("a", "x"))
AT = position(ENTRIES, 3)


def signed(at: Position = AT, count: int = len(ENTRIES), *, seeds: tuple[int, ...] = (1,)) -> bytes:
    head = SnapshotHead(position=at.to_proto(), entry_count=count)
    return sign_head(signer(*seeds), head).SerializeToString()


def trusting(directory: Path, *seeds: int, **intervals: float) -> TrustedKeys:
    keys = TrustedKeys(write_public_keys(directory / "trusted.pem", *seeds), directory / "SIGNED_HEAD", **intervals)
    keys.read()
    return keys


def accepted(
    keys: TrustedKeys, signed_head: bytes, *, at: Position = AT, entries: tuple[RawEntry, ...] = ENTRIES
) -> Snapshot | Rejection:
    policy = replace(POLICY, refuse_head=keys.refuse)
    return accept(at, entries, held=None, policy=policy, signed_head=signed_head)


def reason(outcome: Snapshot | Rejection) -> str:
    assert isinstance(outcome, Rejection)
    return outcome.reason


def test_a_snapshot_that_a_trusted_key_has_signed_is_accepted_with_its_head(tmp_path: Path) -> None:
    outcome = accepted(trusting(tmp_path, 1), signed())
    assert isinstance(outcome, Snapshot)
    assert outcome.signed_head == signed()


@pytest.mark.parametrize("seeds", [(1, 2), (2, 1)])
def test_one_of_two_signatures_is_enough(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    assert isinstance(accepted(trusting(tmp_path, 2), signed(seeds=seeds)), Snapshot)


def test_the_signed_head_of_another_snapshot_is_refused(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1)
    for other in (
        signed(position(ENTRIES, 3, store_uid="store-b")),
        signed(replace(AT, revision=2)),
        signed(replace(AT, digest=b"\0" * 32)),
        signed(count=len(ENTRIES) - 1),
    ):
        assert reason(accepted(keys, other)) == SIGNATURE_INVALID


def test_a_swapped_root_is_refused_although_its_entries_fit(tmp_path: Path) -> None:
    """Who can alter the entries can also compute their root digest, but not sign it."""
    forged = raws(model("a", uri="file:///models/evil"), adapter("a", "x"))
    keys = trusting(tmp_path, 1)
    assert reason(accepted(keys, signed(), at=position(forged, 3), entries=forged)) == SIGNATURE_INVALID


def test_altered_entries_under_a_good_head_are_refused(tmp_path: Path) -> None:
    forged = raws(model("a", uri="file:///models/evil"), adapter("a", "x"))
    assert reason(accepted(trusting(tmp_path, 1), signed(), entries=forged)) == "ROOT_DIGEST_MISMATCH"


def test_a_snapshot_without_a_signature_or_by_another_key_is_refused(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1)
    assert reason(accepted(keys, b"")) == SIGNATURE_MISSING
    outcome = accepted(keys, signed(seeds=(2,)))
    assert isinstance(outcome, Rejection)
    assert outcome.reason == KEY_NOT_TRUSTED
    assert private_key(2).public.id in outcome.message


def test_a_truncated_head_is_refused(tmp_path: Path) -> None:
    assert reason(accepted(trusting(tmp_path, 1), signed()[:-1])) == SIGNATURE_INVALID


def test_without_trusted_keys_any_head_of_a_bounded_size_is_kept(tmp_path: Path) -> None:
    keys = TrustedKeys(None, tmp_path / "SIGNED_HEAD")
    keys.read()
    for head in (b"", signed(seeds=(7,)), b"garbage"):
        outcome = accepted(keys, head)
        assert isinstance(outcome, Snapshot)
        assert outcome.signed_head == head
    assert reason(accepted(keys, b"\0" * (SIGNED_HEAD_BYTES_MAX + 1))) == SIGNATURE_INVALID


def test_an_unusable_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "trusted.pem").write_text("no key")
    for file in (tmp_path / "trusted.pem", tmp_path / "missing.pem"):
        with pytest.raises(TrustedKeysUnusable, match=str(file)):
            TrustedKeys(file, tmp_path / "SIGNED_HEAD").read()


# --- on the stream


def _subscriber(keys: TrustedKeys) -> Subscriber:
    policy = replace(POLICY, refuse_head=keys.refuse)
    subscriber = Subscriber(Identity(data_plane="dp", instance_uid="i"), policy=policy, serving=None)
    subscriber.open()
    return subscriber


def _intent(signed_head: bytes, count: int = len(ENTRIES)) -> pb.SyncResponse:
    intent = pb.Intent(mode=pb.Intent.MODE_FULL, to=AT.to_proto(), entry_count=count)
    if signed_head:
        intent.signed_head.ParseFromString(signed_head)
    return pb.SyncResponse(intent=intent)


def test_an_unsigned_snapshot_is_refused_at_its_announcement(tmp_path: Path) -> None:
    """Before any of it is collected."""
    event = _subscriber(trusting(tmp_path, 1)).receive(_intent(b""))
    assert isinstance(event, Refused)
    assert event.rejected.reason == SIGNATURE_MISSING


def test_a_changed_entry_count_is_refused_at_the_announcement(tmp_path: Path) -> None:
    event = _subscriber(trusting(tmp_path, 1)).receive(_intent(signed(), count=3))
    assert isinstance(event, Refused)
    assert event.rejected.reason == SIGNATURE_INVALID


def test_a_candidate_carries_the_head_that_was_announced(tmp_path: Path) -> None:
    subscriber = _subscriber(trusting(tmp_path, 1))
    assert subscriber.receive(_intent(signed())) is None
    protos = map(entry_proto, ENTRIES)
    assert subscriber.receive(pb.SyncResponse(chunk=pb.Chunk(entries=protos))) is None
    event = subscriber.receive(pb.SyncResponse(commit=pb.Commit(to=AT.to_proto())))
    assert isinstance(event, Candidate)
    assert event.signed_head == signed()


# --- after a mistake


class _Asked:
    """What was asked for again."""

    def __init__(self) -> None:
        self.questions: list[tuple[set[Position], int]] = []
        self._asked = asyncio.Event()

    def __call__(self, positions: Iterable[Position], number: int) -> None:
        self.questions.append((set(positions), number))
        self._asked.set()

    async def once(self) -> None:
        await asyncio.wait_for(self._asked.wait(), 10)
        self._asked.clear()


async def test_what_was_refused_is_asked_for_again_when_the_keys_change(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1, reload_interval_s=0.001)
    keys.rejected(AT)
    asked = _Asked()
    following = asyncio.create_task(keys.follow(asked, serving=lambda: None))
    write_public_keys(tmp_path / "trusted.pem", 1, 2)
    await asked.once()
    assert asked.questions == [({AT}, 1)]
    assert isinstance(accepted(keys, signed(seeds=(2,))), Snapshot)
    following.cancel()


async def test_a_million_refusals_are_not_remembered(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1, reload_interval_s=0.001, retry_s=0.01)
    for revision in range(1000):
        keys.rejected(replace(AT, revision=revision))
    asked = _Asked()
    following = asyncio.create_task(keys.follow(asked, serving=lambda: None))
    await asked.once()
    assert {item.revision for item in asked.questions[0][0]} == set(range(1000 - REJECTED_MAX, 1000))
    following.cancel()


async def test_what_was_refused_is_asked_for_again_after_a_while(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1, reload_interval_s=0.001, retry_s=0.01)
    asked = _Asked()
    following = asyncio.create_task(keys.follow(asked, serving=lambda: None))
    for number in (1, 2):
        keys.rejected(AT)
        await asked.once()
        assert asked.questions[-1][0] == {AT}
        assert asked.questions[-1][1] >= number
    assert len({number for _, number in asked.questions}) == len(asked.questions)
    following.cancel()


async def test_a_file_that_cannot_be_used_leaves_the_former_keys(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1, reload_interval_s=0.001)
    following = asyncio.create_task(keys.follow(_Asked(), serving=lambda: None))
    (tmp_path / "trusted.pem").write_text("half a k")
    await asyncio.sleep(0.05)
    assert isinstance(accepted(keys, signed()), Snapshot)
    write_public_keys(tmp_path / "trusted.pem", 2)
    await eventually(lambda: refuses(keys, KEY_NOT_TRUSTED))
    following.cancel()


async def refuses(keys: TrustedKeys, reason: str) -> bool:
    outcome = accepted(keys, signed())
    return isinstance(outcome, Rejection) and outcome.reason == reason


async def test_an_agent_that_serves_nothing_starts_anew_with_other_keys(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1, reload_interval_s=0.001)
    keys.refused_at_start = True
    following = asyncio.create_task(keys.follow(_Asked(), serving=lambda: None))
    write_public_keys(tmp_path / "trusted.pem", 1, 2)
    with pytest.raises(TrustedKeysChanged):
        await asyncio.wait_for(following, 10)


@pytest.mark.parametrize(("seed", "alarms"), [(1, 0), (2, 1)])
async def test_what_is_in_service_stays_there_and_an_alarm_says_when_no_trusted_key_has_signed_it(
    tmp_path: Path, seed: int, alarms: int
) -> None:
    keys = trusting(tmp_path, 1, reload_interval_s=0.001)
    keys.refused_at_start = True
    served = accepted(keys, signed())
    assert isinstance(served, Snapshot)
    with capture_logs() as logs:
        following = asyncio.create_task(keys.follow(_Asked(), serving=lambda: served))
        write_public_keys(tmp_path / "trusted.pem", seed, 3)
        await eventually(lambda: logged(logs, "trusted_keys_reloaded"))
        await asyncio.sleep(0.02)
    assert not following.done()
    following.cancel()
    assert [item["event"] for item in logs].count("snapshot_in_service_not_trusted") == alarms


async def logged(logs: Sequence[Mapping[str, object]], event: str) -> bool:
    return any(item["event"] == event for item in logs)


# --- renewed signatures


async def kept(keys: TrustedKeys, *heads: bytes) -> None:
    """Let it keep these, one after the other."""
    for head in heads:
        keeping = asyncio.create_task(keys.keep_renewed(lambda head=head: head))  # type: ignore[misc]
        await asyncio.sleep(0.05)
        keeping.cancel()
        await asyncio.wait([keeping])


async def test_renewed_signatures_vouch_for_the_snapshot_after_a_restart(tmp_path: Path) -> None:
    await kept(trusting(tmp_path, 1, 2, reload_interval_s=0.001), signed(seeds=(2,)))
    later = trusting(tmp_path, 2)
    assert isinstance(accepted(later, signed(seeds=(1,))), Snapshot)
    other = position(ENTRIES, 4)
    assert reason(accepted(later, signed(other, seeds=(1,)), at=other)) == KEY_NOT_TRUSTED


async def test_signatures_that_are_not_trusted_or_garbled_replace_nothing(tmp_path: Path) -> None:
    keys = trusting(tmp_path, 1, 2, reload_interval_s=0.001)
    await kept(keys, signed(seeds=(2,)), signed(seeds=(3,)), b"garbage", b"")
    assert (tmp_path / "SIGNED_HEAD").read_bytes() == signed(seeds=(2,))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * (SIGNED_HEAD_BYTES_MAX + 1)])
def test_a_damaged_file_of_renewed_signatures_vouches_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "SIGNED_HEAD").write_bytes(content)
    keys = trusting(tmp_path, 2)
    assert reason(accepted(keys, signed(seeds=(1,)))) == KEY_NOT_TRUSTED
    assert isinstance(accepted(keys, signed(seeds=(2,))), Snapshot)


async def test_a_full_disk_loses_the_renewed_signatures_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = trusting(tmp_path, 1, 2, reload_interval_s=0.001)
    with monkeypatch.context() as patch:
        patch.setattr("dataplane.sync.durable_files.os.fsync", raise_disk_full)
        await kept(keys, signed(seeds=(2,)))
    assert not (tmp_path / "SIGNED_HEAD").exists()
    assert isinstance(accepted(keys, signed()), Snapshot)
