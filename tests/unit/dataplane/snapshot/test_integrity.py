"""Damaged bytes never become another snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.accept import accept
from dataplane.snapshot.assembler import Assembler
from dataplane.snapshot.change import Change
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import BLOB_DIGEST_MISMATCH, ENTRIES_NOT_ORDERED, ROOT_DIGEST_MISMATCH, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from tests.raw import CATALOG, POLICY, accepted, entry_proto, position, rejected


def test_an_altered_blob_is_refused() -> None:
    altered = (replace(CATALOG[0], blob=CATALOG[0].blob + b"\x00"), *CATALOG[1:])
    assert rejected(altered, at=position(CATALOG)) == BLOB_DIGEST_MISMATCH


def test_an_altered_blob_of_a_held_entry_is_refused() -> None:
    altered = (replace(CATALOG[0], blob=CATALOG[0].blob + b"\x00"), *CATALOG[1:])
    reason = rejected(altered, at=position(CATALOG, 2), held=accepted(CATALOG))
    assert reason == BLOB_DIGEST_MISMATCH


@pytest.mark.parametrize("entries", [CATALOG[1:], CATALOG[:-1], ()])
def test_missing_entries_are_refused(entries: tuple[RawEntry, ...]) -> None:
    assert rejected(entries, at=position(CATALOG)) == ROOT_DIGEST_MISMATCH


def test_unordered_and_repeated_entries_are_refused() -> None:
    assert rejected(CATALOG[::-1]) == ENTRIES_NOT_ORDERED
    assert rejected((CATALOG[0], *CATALOG)) == ENTRIES_NOT_ORDERED


def _chunks(entries: tuple[RawEntry, ...]) -> list[bytes]:
    half = len(entries) // 2
    return [
        pb.Chunk(entries=[entry_proto(entry) for entry in part]).SerializeToString()
        for part in (entries[:half], entries[half:])
    ]


def _receive(at: Position, chunks: list[bytes]) -> Snapshot | Rejection | None:
    """Receive the chunks of CATALOG. None: a chunk could not be decoded."""
    assembler = Assembler(at, len(CATALOG), Limits())
    for chunk in chunks:
        try:
            message = pb.Chunk.FromString(chunk)
        except DecodeError:
            return None
        rejection = assembler.add(message)
        if rejection is not None:
            return rejection
    entries = assembler.complete()
    assert not isinstance(entries, Change)
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
