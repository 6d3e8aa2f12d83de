from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push import revocation_batches
from controlplane.push.revocation_batches import Batch, RevocationBatches
from controlplane.push.subscription.revocations import BatchRequest
from protocol.snapshot_limits import SYNC_MESSAGE_BYTES_MAX


class Source:
    def __init__(self, count: int) -> None:
        self.uids = [f"{number:032x}" for number in range(1, count + 1)]
        self.reads = 0

    async def after(self, sequence: int, *, limit: int) -> Sequence[str]:
        self.reads += 1
        await asyncio.sleep(0)
        return self.uids[sequence : sequence + limit]


class Signer:
    def __init__(self) -> None:
        self.signed: list[tuple[str, bytes]] = []

    def sign(self, context: str, payload: bytes) -> Sequence[snapshot_pb2.Signature]:
        self.signed.append((context, payload))
        return [snapshot_pb2.Signature(key_id="id", signature=b"s" * 64)]


def batches(source: Source, signer: Signer | None = None) -> RevocationBatches:
    return RevocationBatches(source, store_uid="store", signer=lambda: signer)


def payload_of(batch: Batch) -> pb.RevocationBatch:
    return pb.RevocationBatch.FromString(batch.response.revocations.payload)


async def test_all_streams_at_the_same_place_share_one_message_and_one_signature() -> None:
    source, signer = Source(3), Signer()
    made = batches(source, signer)
    request = BatchRequest(after_sequence=1, newest_sequence=3)
    got = await asyncio.gather(*(made.get(request) for _ in range(100)))
    assert all(batch is got[0] for batch in got)
    assert source.reads == len(signer.signed) == 1
    payload = payload_of(got[0])
    assert (payload.store_uid, payload.after_sequence, payload.last_sequence) == ("store", 1, 3)
    assert list(payload.key_uids) == source.uids[1:]
    assert signer.signed == [("broadsheet.v1.RevocationBatch", got[0].response.revocations.payload)]
    assert [signature.key_id for signature in got[0].response.revocations.signatures] == ["id"]


async def test_a_batch_that_ends_before_a_newer_revocation_is_read_again() -> None:
    source = Source(1)
    made = batches(source)
    assert (await made.get(BatchRequest(after_sequence=0, newest_sequence=1))).last_sequence == 1
    source.uids.append("new")
    assert (await made.get(BatchRequest(after_sequence=0, newest_sequence=2))).last_sequence == 2


async def test_many_revocations_are_several_batches_that_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_batches, "BATCH_UIDS_MAX", 10)
    source = Source(25)
    made = batches(source)
    for _ in range(2):
        after, uids = 0, list[str]()
        while after < 25:
            batch = await made.get(BatchRequest(after_sequence=after, newest_sequence=25))
            uids += payload_of(batch).key_uids
            after = batch.last_sequence
        assert uids == source.uids
    assert source.reads == 3


async def test_the_largest_batch_fits_into_a_message() -> None:
    batch = await batches(Source(20_000)).get(BatchRequest(after_sequence=0, newest_sequence=20_000))
    assert batch.last_sequence == 10_000
    assert batch.response.ByteSize() < SYNC_MESSAGE_BYTES_MAX // 8


async def test_batches_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_batches, "CACHED_BATCHES_MAX", 2)
    source = Source(5)
    made = batches(source)
    for after in (0, 1, 2, 2, 1, 0):
        await made.get(BatchRequest(after_sequence=after, newest_sequence=5))
    assert source.reads == 4, "the oldest was dropped"


async def test_a_store_without_the_revocation_is_an_error_and_no_empty_batch() -> None:
    with pytest.raises(LookupError, match="after 3"):
        await batches(Source(3)).get(BatchRequest(after_sequence=3, newest_sequence=4))


async def test_a_batch_is_signed_again_when_the_keys_have_changed() -> None:
    signers = [Signer(), Signer()]
    made = RevocationBatches(Source(1), store_uid="store", signer=lambda: signers[0])
    request = BatchRequest(after_sequence=0, newest_sequence=1)
    before = await made.get(request)
    signers.reverse()
    assert (await made.get(request)).signer is not before.signer
    assert len(signers[0].signed) == 1
    await made.get(request)
    assert len(signers[0].signed) == 1
