"""Why a snapshot is refused as a whole. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.signing.signatures import KEY_NOT_TRUSTED, SIGNATURE_INVALID, SIGNATURE_MISSING

# Reasons of rejections. Part of the API: operators and tests match on them.
STORE_UID_MISMATCH = "STORE_UID_MISMATCH"
REVISION_LOWER = "REVISION_LOWER"
REVISION_CONFLICT = "REVISION_CONFLICT"
POSITION_INVALID = "POSITION_INVALID"
SNAPSHOT_TOO_LARGE = "SNAPSHOT_TOO_LARGE"
BLOB_TOO_LARGE = "BLOB_TOO_LARGE"
ENTRY_COUNT_MISMATCH = "ENTRY_COUNT_MISMATCH"
ENTRIES_NOT_ORDERED = "ENTRIES_NOT_ORDERED"
BLOB_DIGEST_MISMATCH = "BLOB_DIGEST_MISMATCH"
ROOT_DIGEST_MISMATCH = "ROOT_DIGEST_MISMATCH"
NAME_MISMATCH = "NAME_MISMATCH"
SERVED_NAME_CONFLICT = "SERVED_NAME_CONFLICT"
BASE_MODEL_MISSING = "BASE_MODEL_MISSING"
ROUTE_TARGET_MISSING = "ROUTE_TARGET_MISSING"
SIGNATURE_REASONS = frozenset((SIGNATURE_MISSING, SIGNATURE_INVALID, KEY_NOT_TRUSTED))
"""Other keys may take these away, here or at the control plane. Such a rejection is not final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a snapshot is refused as a whole. The active snapshot keeps serving."""

    reason: str
    """UPPER_SNAKE, one of the constants above."""
    message: str
    """For operators."""
