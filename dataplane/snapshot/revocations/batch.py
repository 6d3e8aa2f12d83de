"""A batch of revocations as it arrives, and the checks that need nothing else. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_service_pb2 as pb
from protocol.revocations import BATCH_UIDS_MAX, UID_CHARACTERS_MAX

PAYLOAD_BYTES_MAX = BATCH_UIDS_MAX * (UID_CHARACTERS_MAX + 8) + 1024
"""Of a serialised batch."""

_SEQUENCE_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Revocations of one store, in the order of their sequences."""

    store_uid: str
    after_sequence: int
    last_sequence: int
    key_uids: tuple[str, ...]


class BatchRefused(Exception):
    """A batch cannot be used. It changed nothing."""


class Gap(BatchRefused):
    """A batch begins after revocations that are not known. They have to be asked for."""


def read_batch(payload: bytes) -> Batch:
    """Parse a serialised RevocationBatch.

    Raises:
        BatchRefused: It is malformed. Names the field, what was got, and what is allowed.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BatchRefused(f"payload: got {len(payload)} bytes; allowed are {PAYLOAD_BYTES_MAX}")
    try:
        message = pb.RevocationBatch.FromString(payload)
    except DecodeError:
        raise BatchRefused("payload: it is no RevocationBatch") from None
    batch = Batch(
        store_uid=message.store_uid,
        after_sequence=message.after_sequence,
        last_sequence=message.last_sequence,
        key_uids=tuple(message.key_uids),
    )
    _check_uid("store_uid", batch.store_uid)
    if not 1 <= len(batch.key_uids) <= BATCH_UIDS_MAX:
        raise BatchRefused(f"key_uids: got {len(batch.key_uids)}; allowed are 1 to {BATCH_UIDS_MAX}")
    if not 0 <= batch.after_sequence <= _SEQUENCE_MAX - BATCH_UIDS_MAX:
        raise BatchRefused(f"after_sequence: got {batch.after_sequence}; 0 or more is allowed")
    if batch.last_sequence != batch.after_sequence + len(batch.key_uids):
        raise BatchRefused(
            f"last_sequence: got {batch.last_sequence}; {len(batch.key_uids)} uids after {batch.after_sequence} "
            f"end at {batch.after_sequence + len(batch.key_uids)}"
        )
    for uid in batch.key_uids:
        _check_uid("key_uids", uid)
    return batch


def _check_uid(field: str, uid: str) -> None:
    if not 1 <= len(uid) <= UID_CHARACTERS_MAX:
        raise BatchRefused(f"{field}: got {len(uid)} characters; allowed are 1 to {UID_CHARACTERS_MAX}")
