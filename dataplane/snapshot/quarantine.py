"""Why a single entry is not served although its snapshot is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# Reasons of quarantines. Part of the API, like those of rejections.
TYPE_UNKNOWN = "TYPE_UNKNOWN"
BLOB_UNREADABLE = "BLOB_UNREADABLE"
ENTRY_INVALID = "ENTRY_INVALID"
SOURCE_NOT_ALLOWED = "SOURCE_NOT_ALLOWED"
ENGINE_ARGUMENT_NOT_ALLOWED = "ENGINE_ARGUMENT_NOT_ALLOWED"
BASE_MODEL_QUARANTINED = "BASE_MODEL_QUARANTINED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Why one entry is not served. The rest of its snapshot is."""

    reason: str
    """UPPER_SNAKE, one of the constants above."""
    message: str
    """For operators."""
    revision_number: int = 0
    """Number of the model or adapter revision; 0 when the entry could not be decoded."""


def base_quarantined(base: str, revision_number: int) -> Quarantine:
    """The quarantine of an adapter whose base model is not served.

    Args:
        base: Resource name of the model.
        revision_number: Of the adapter.
    """
    return Quarantine(
        reason=BASE_MODEL_QUARANTINED, message=f"its base {base} is quarantined", revision_number=revision_number
    )
