"""Signatures: which make a payload good, and which do not."""

from __future__ import annotations

import pytest

from broadsheet.v1.snapshot_pb2 import Signature
from protocol.signing.keys import KEYS_MAX
from protocol.signing.signatures import (
    KEY_NOT_TRUSTED,
    REVOCATION_BATCH,
    SIGNATURE_INVALID,
    SIGNATURE_MISSING,
    SNAPSHOT_HEAD,
    SignatureError,
    Verifier,
)
from tests.signing import private_key, signer, verifier

PAYLOAD = b"payload"
OLD, NEW, FOREIGN = 1, 2, 3


def _id(seed: int) -> str:
    return private_key(seed).public.id


def _refusal(trusted: Verifier, payload: bytes, signatures: tuple[Signature, ...]) -> SignatureError:
    with pytest.raises(SignatureError) as raised:
        trusted.verify(SNAPSHOT_HEAD, payload, signatures)
    return raised.value


def test_a_signature_by_a_trusted_key_is_good() -> None:
    signatures = signer(OLD).sign(SNAPSHOT_HEAD, PAYLOAD)
    assert verifier(OLD).verify(SNAPSHOT_HEAD, PAYLOAD, signatures) == _id(OLD)


def test_what_is_signed_is_the_context_a_zero_byte_and_the_payload() -> None:
    (signature,) = signer(OLD).sign(SNAPSHOT_HEAD, PAYLOAD)
    private_key(OLD).public.key.verify(signature.signature, b"broadsheet.v1.SnapshotHead\0payload")


@pytest.mark.parametrize(("signing", "trusted"), [((OLD, NEW), (OLD,)), ((OLD, NEW), (NEW,)), ((NEW,), (OLD, NEW))])
def test_one_trusted_key_is_enough_while_keys_rotate(signing: tuple[int, ...], trusted: tuple[int, ...]) -> None:
    signatures = signer(*signing).sign(SNAPSHOT_HEAD, PAYLOAD)
    assert verifier(*trusted).verify(SNAPSHOT_HEAD, PAYLOAD, signatures)


def test_a_payload_without_a_signature_is_refused() -> None:
    refused = _refusal(verifier(OLD), PAYLOAD, ())
    assert refused.reason == SIGNATURE_MISSING
    assert _id(OLD) in refused.message


def test_a_key_that_is_not_trusted_is_named() -> None:
    refused = _refusal(verifier(OLD, NEW), PAYLOAD, signer(FOREIGN).sign(SNAPSHOT_HEAD, PAYLOAD))
    assert refused.reason == KEY_NOT_TRUSTED
    assert all(_id(seed) in refused.message for seed in (OLD, NEW, FOREIGN))


def test_nobody_is_trusted_without_keys() -> None:
    assert _refusal(Verifier(()), PAYLOAD, signer(OLD).sign(SNAPSHOT_HEAD, PAYLOAD)).reason == KEY_NOT_TRUSTED


def test_a_foreign_signature_under_the_id_of_a_trusted_key_is_refused() -> None:
    (signature,) = signer(FOREIGN).sign(SNAPSHOT_HEAD, PAYLOAD)
    forged = Signature(key_id=_id(OLD), signature=signature.signature)
    refused = _refusal(verifier(OLD), PAYLOAD, (forged,))
    assert (refused.reason, _id(OLD) in refused.message) == (SIGNATURE_INVALID, True)


def test_a_signature_over_another_payload_or_context_is_refused() -> None:
    other_payload = signer(OLD).sign(SNAPSHOT_HEAD, b"other")
    other_context = signer(OLD).sign(REVOCATION_BATCH, PAYLOAD)
    for signatures in (other_payload, other_context):
        assert _refusal(verifier(OLD), PAYLOAD, signatures).reason == SIGNATURE_INVALID


@pytest.mark.parametrize("length", [0, 1, 63, 65, 10_000])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    forged = Signature(key_id=_id(OLD), signature=b"\1" * length)
    assert _refusal(verifier(OLD), PAYLOAD, (forged,)).reason == SIGNATURE_INVALID


def test_every_changed_bit_of_a_signature_is_refused() -> None:
    (signature,) = signer(OLD).sign(SNAPSHOT_HEAD, PAYLOAD)
    for bit in range(0, 512, 7):
        altered = bytearray(signature.signature)
        altered[bit // 8] ^= 1 << bit % 8
        forged = Signature(key_id=signature.key_id, signature=bytes(altered))
        assert _refusal(verifier(OLD), PAYLOAD, (forged,)).reason == SIGNATURE_INVALID


def test_a_bad_signature_beside_a_good_one_does_no_harm() -> None:
    good = signer(OLD).sign(SNAPSHOT_HEAD, PAYLOAD)
    bad = (Signature(key_id=_id(OLD), signature=bytes(64)), Signature(key_id="x" * 1000, signature=b""))
    assert verifier(OLD).verify(SNAPSHOT_HEAD, PAYLOAD, (*bad, *good)) == _id(OLD)


def test_more_signatures_than_keys_can_sign_are_refused_unread() -> None:
    signatures = signer(OLD).sign(SNAPSHOT_HEAD, PAYLOAD) * (KEYS_MAX + 1)
    assert _refusal(verifier(OLD), PAYLOAD, signatures).reason == SIGNATURE_INVALID
