from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.batch import PAYLOAD_BYTES_MAX, Batch, BatchRefused, read_batch
from protocol.revocations import BATCH_UIDS_MAX
from tests.revoking import batch


def test_a_batch_is_read() -> None:
    read = read_batch(batch("a", "b", after=3).payload)
    assert read == Batch(store_uid="store", after_sequence=3, last_sequence=5, key_uids=("a", "b"))


def test_the_largest_batch_is_read() -> None:
    uids = [f"{number:064x}" for number in range(BATCH_UIDS_MAX)]
    payload = batch(*uids, store_uid="s" * 64, after=2**62).payload
    assert len(payload) <= PAYLOAD_BYTES_MAX
    assert len(read_batch(payload).key_uids) == BATCH_UIDS_MAX


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"\xff\xff", "no RevocationBatch"),
        (b"", "store_uid: got 0 characters; allowed are 1 to 64"),
        (batch("a", store_uid="s" * 65).payload, "store_uid: got 65"),
        (batch().payload, "key_uids: got 0; allowed are 1 to 10000"),
        (batch(*["a"] * (BATCH_UIDS_MAX + 1)).payload, "key_uids: got 10001"),
        (batch("a", "").payload, "key_uids: got 0 characters"),
        (batch("a" * 65).payload, "key_uids: got 65 characters; allowed are 1 to 64"),
        (batch("a", after=-1).payload, "after_sequence: got -1"),
        (batch("a", after=2**63 - 2).payload, "after_sequence: got 9223372036854775806"),
        (batch("a", "b", last=1).payload, "last_sequence: got 1; 2 uids after 0 end at 2"),
        (batch("a", last=2**63 - 1).payload, "last_sequence: got 9223372036854775807"),
        (bytes(PAYLOAD_BYTES_MAX + 1), f"payload: got {PAYLOAD_BYTES_MAX + 1} bytes"),
    ],
)
def test_a_malformed_batch_is_refused_with_the_field(payload: bytes, says: str) -> None:
    with pytest.raises(BatchRefused, match=says):
        read_batch(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_are_refused(payload: bytes) -> None:
    try:
        read = read_batch(payload)
    except BatchRefused:
        return
    assert read.last_sequence - read.after_sequence == len(read.key_uids) > 0


@given(st.data())
def test_a_batch_with_a_flipped_byte_is_a_batch_or_is_refused(data: st.DataObject) -> None:
    payload = bytearray(batch("a" * 32, "b" * 32, after=7).payload)
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BatchRefused):
        read_batch(bytes(payload))


def test_an_unknown_field_of_a_later_release_is_ignored() -> None:
    later = pb.RevocationBatch.FromString(batch("a").payload).SerializeToString() + b"\xf8\x07\x01"
    assert read_batch(later).key_uids == ("a",)
