"""Bounds of revocations beside snapshots, the same for both planes. Pure."""

from __future__ import annotations

BATCH_UIDS_MAX = 10_000
"""Key uids in one batch. A uid of ours takes 34 bytes on the wire, so a batch has 340 kB."""

UID_CHARACTERS_MAX = 64
"""Of the uid of a key or of a store."""
