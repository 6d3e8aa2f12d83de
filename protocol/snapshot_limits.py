"""How large a snapshot may be: what the registry lets in, and what every data plane takes. Pure.

A snapshot that a data plane refuses blocks every later one, so both planes have one definition.
"""

from __future__ import annotations

ENTRIES_MAX = 1_000_000
"""Entries of a snapshot."""

BLOB_BYTES_MAX = 256 * 1024
"""Of the content of an entry. A chunk of the Sync stream holds CHUNK_BYTES_MAX, or one entry."""

SNAPSHOT_BYTES_MAX = 2 * 1024**3
"""Names, types and contents of all entries together; see `entry_bytes`. A data plane holds them in
memory."""

CHUNK_BYTES_MAX = 1024 * 1024
"""A larger entry is a chunk of its own."""

BATCH_BYTES_MAX = 64 * 1024
"""Messages of a batch on the Sync stream. Larger messages are written alone: of them, most of the
cost is in their bytes."""

SYNC_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""The largest message that a data plane reads from a Sync stream: far above a chunk."""


def entry_bytes(name: str, type_: str, blob_bytes: int) -> int:
    """What an entry counts for SNAPSHOT_BYTES_MAX.

    Args:
        name: Its resource name.
        type_: Full name of its message.
        blob_bytes: Bytes of its content.
    """
    return len(name) + len(type_) + blob_bytes
