"""Whether one position may follow another. Pure."""

from __future__ import annotations

from dataplane.snapshot.rejection import (
    POSITION_INVALID,
    REVISION_CONFLICT,
    REVISION_LOWER,
    STORE_UID_MISMATCH,
    Rejection,
)
from dataplane.snapshot.snapshot import Position

POSITION_DIGEST_BYTES = 32


def is_complete(position: Position) -> bool:
    """Whether a position names a store, a revision of 0 or more, and a digest of 32 bytes."""
    return bool(position.store_uid) and position.revision >= 0 and len(position.digest) == POSITION_DIGEST_BYTES


def refuse_position(position: Position, held: Position | None, *, allow_new_store: bool) -> Rejection | None:
    """Return why `position` may not follow `held`, whatever its content; None if it may.

    The held position may follow itself. That changes nothing.
    """
    if not is_complete(position):
        return Rejection(reason=POSITION_INVALID, message=f"the position {describe(position)} is incomplete")
    if held is None:
        return None
    if position.store_uid != held.store_uid:
        if allow_new_store:
            return None
        return Rejection(
            reason=STORE_UID_MISMATCH,
            message=f"it is of store {position.store_uid}, and this data plane follows store {held.store_uid} until an "
            "operator allows another (--allow-new-store)",
        )
    if position.revision < held.revision:
        return Rejection(
            reason=REVISION_LOWER, message=f"it is revision {position.revision}, and revision {held.revision} is active"
        )
    if position.revision == held.revision and position.digest != held.digest:
        return Rejection(
            reason=REVISION_CONFLICT,
            message=f"revision {position.revision} is active with digest {held.digest.hex()}, "
            f"and this one has digest {position.digest.hex()}",
        )
    return None


def is_behind(position: Position, other: Position | None) -> bool:
    """Whether `position` is older than `other`. Positions of two stores have no order."""
    return other is not None and position.store_uid == other.store_uid and position.revision < other.revision


def describe(position: Position) -> str:
    """Format `position` for logs and messages: store, revision, and the start of the digest."""
    return f"{position.store_uid}@{position.revision}#{position.digest.hex()[:12]}"
