"""Signed heads: only the snapshot that was signed is taken."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from broadsheet.v1.snapshot_pb2 import Position, SignedHead, SnapshotHead
from protocol.signing.heads import SIGNED_HEAD_BYTES_MAX, sign_head, verify_head
from protocol.signing.keys import KEYS_MAX
from protocol.signing.signatures import (
    KEY_NOT_TRUSTED,
    REVOCATION_BATCH,
    SIGNATURE_INVALID,
    SIGNATURE_MISSING,
    SignatureError,
)
from tests.signing import private_key, signer, verifier

POSITION = Position(store_uid="store", revision=7, digest=b"d" * 32)
ENTRIES = 3
HEAD = SnapshotHead(position=POSITION, entry_count=ENTRIES, commit_time=Timestamp(seconds=1))
SIGNED = sign_head(signer(1), HEAD).SerializeToString()


def _reason(signed: bytes, position: Position = POSITION, entries: int = ENTRIES, *, trusted: int = 1) -> str:
    with pytest.raises(SignatureError) as raised:
        verify_head(verifier(trusted), signed, position, entries)
    return raised.value.reason


def test_the_signed_head_of_exactly_this_snapshot_is_good() -> None:
    assert verify_head(verifier(1), SIGNED, POSITION, ENTRIES) == private_key(1).public.id


@pytest.mark.parametrize(
    ("position", "entries"),
    [
        (Position(store_uid="other", revision=7, digest=b"d" * 32), ENTRIES),
        (Position(store_uid="store", revision=8, digest=b"d" * 32), ENTRIES),
        (Position(store_uid="store", revision=6, digest=b"d" * 32), ENTRIES),
        (Position(store_uid="store", revision=7, digest=b"e" * 32), ENTRIES),
        (POSITION, ENTRIES + 1),
        (POSITION, -1),
    ],
)
def test_a_good_signature_over_another_snapshot_is_refused(position: Position, entries: int) -> None:
    assert _reason(SIGNED, position, entries) == SIGNATURE_INVALID


def test_a_head_without_a_signature_or_by_another_key_is_refused() -> None:
    assert _reason(b"") == SIGNATURE_MISSING
    assert _reason(SignedHead(payload=HEAD.SerializeToString()).SerializeToString()) == SIGNATURE_MISSING
    assert _reason(SIGNED, trusted=2) == KEY_NOT_TRUSTED


def test_a_head_whose_payload_was_altered_is_refused() -> None:
    altered = SnapshotHead()
    altered.CopyFrom(HEAD)
    altered.position.revision += 1
    forged = SignedHead.FromString(SIGNED)
    forged.payload = altered.SerializeToString()
    assert _reason(forged.SerializeToString(), altered.position) == SIGNATURE_INVALID


def test_a_truncated_or_garbled_head_is_refused() -> None:
    for end in range(1, len(SIGNED)):
        assert _reason(SIGNED[:end]) in (SIGNATURE_INVALID, SIGNATURE_MISSING)
    assert _reason(b"\xff" * 100) == SIGNATURE_INVALID


def test_a_signature_over_revocations_is_none_over_a_head() -> None:
    payload = HEAD.SerializeToString()
    forged = SignedHead(payload=payload, signatures=signer(1).sign(REVOCATION_BATCH, payload))
    assert _reason(forged.SerializeToString()) == SIGNATURE_INVALID


def test_the_largest_signed_head_is_within_its_bound() -> None:
    head = SnapshotHead(
        position=Position(store_uid="s" * 64, revision=2**62, digest=b"d" * 32),
        entry_count=2**40,
        commit_time=Timestamp(seconds=2**40, nanos=10**9 - 1),
    )
    signed = sign_head(signer(*range(1, KEYS_MAX + 1)), head).SerializeToString()
    assert len(signed) < SIGNED_HEAD_BYTES_MAX
    assert verify_head(verifier(KEYS_MAX), signed, head.position, head.entry_count)
    assert _reason(b"\0" * (SIGNED_HEAD_BYTES_MAX + 1)) == SIGNATURE_INVALID
