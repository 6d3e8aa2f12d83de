"""What both planes know of revocations beside snapshots. Pure."""

from __future__ import annotations

BATCH_UIDS_MAX = 10_000
"""Key uids in one batch. A uid takes 34 bytes on the wire, so a batch has at most 350 kB."""

SIGNATURE_CONTEXT = "broadsheet.v1.RevocationBatch"
"""Of the signatures of a batch."""
