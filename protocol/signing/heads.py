"""The signed head of a snapshot: which snapshot of which store it is. Pure.

The signature is over store uid, revision, root digest, number of entries and commit time. The root
digest is over the entries, so a signed head vouches for every byte of the snapshot.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_pb2, snapshot_service_pb2
from protocol.signing.signatures import (
    SIGNATURE_INVALID,
    SIGNATURE_MISSING,
    SNAPSHOT_HEAD,
    SignatureError,
    Signer,
    Verifier,
)
from protocol.validation import shorten

SIGNED_HEAD_BYTES_MAX = 4096
"""Of a serialised SignedHead: 16 signatures of about 90 bytes, and the head."""


def sign_head(signer: Signer, head: snapshot_pb2.SnapshotHead) -> snapshot_pb2.SignedHead:
    """The head with a signature of each key."""
    payload = head.SerializeToString(deterministic=True)
    return snapshot_pb2.SignedHead(payload=payload, signatures=signer.sign(SNAPSHOT_HEAD, payload))


def signed_head_of(message: snapshot_service_pb2.Intent | snapshot_service_pb2.FetchSnapshotResponse) -> bytes:
    """The serialised SignedHead in a message; empty: there is none."""
    return message.signed_head.SerializeToString() if message.HasField("signed_head") else b""


def parse_head(signed: bytes) -> tuple[snapshot_pb2.SignedHead, snapshot_pb2.SnapshotHead]:
    """A serialised SignedHead, and the head in it. Nothing is verified.

    Raises:
        SignatureError: It is no signed head.
    """
    if not signed:
        raise SignatureError(SIGNATURE_MISSING, "it has no signed head")
    if len(signed) > SIGNED_HEAD_BYTES_MAX:
        raise SignatureError(
            SIGNATURE_INVALID, f"the signed head has {len(signed)} bytes; allowed are {SIGNED_HEAD_BYTES_MAX}"
        )
    try:
        message = snapshot_pb2.SignedHead.FromString(signed)
        return message, snapshot_pb2.SnapshotHead.FromString(message.payload)
    except DecodeError:
        raise SignatureError(SIGNATURE_INVALID, "the signed head cannot be read") from None


def verify_head(verifier: Verifier, signed: bytes, position: snapshot_pb2.Position, entry_count: int) -> str:
    """Return the id of a trusted key that has signed the head of exactly this snapshot.

    Args:
        verifier: The trusted keys.
        signed: The serialised SignedHead, as it was received or stored.
        position: The snapshot.
        entry_count: Its entries.

    Raises:
        SignatureError: There is none; says why.
    """
    # What is not there has no signatures either, and the verifier says which keys it looked for.
    message, head = parse_head(signed) if signed else (snapshot_pb2.SignedHead(), snapshot_pb2.SnapshotHead())
    key_id = verifier.verify(SNAPSHOT_HEAD, message.payload, message.signatures)
    differing = _difference(head, position, entry_count)
    if differing:
        raise SignatureError(SIGNATURE_INVALID, f"key {key_id} has signed the head of another snapshot: {differing}")
    return key_id


def _difference(head: snapshot_pb2.SnapshotHead, position: snapshot_pb2.Position, entry_count: int) -> str:
    signed = head.position
    for field, got, expected in (
        ("store uid", signed.store_uid, position.store_uid),
        ("revision", str(signed.revision), str(position.revision)),
        ("root digest", signed.digest.hex(), position.digest.hex()),
        ("entries", str(head.entry_count), str(entry_count)),
    ):
        if got != expected:
            return f"signed is {field} {shorten(got)}, announced was {shorten(expected)}"
    return ""
