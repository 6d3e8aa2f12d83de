"""How long a log of changes may become. Pure.

A log that is as large as its base is compacted: the base is then written once for as many bytes of
changes, so that a change costs twice its size in the long run, and the disk holds twice the
snapshot.
"""

from __future__ import annotations

COMPACT_BYTES_MIN = 1024 * 1024
"""A shorter log is left alone, however small the base is: a small base is quickly read again."""

COMPACT_BYTES_MAX = 256 * 1024 * 1024
"""A longer log is compacted, however large the base is. It is read whole at start."""

COMPACT_RECORDS_MAX = 65_536
"""A log of more records is compacted. A start takes about 25 µs for each."""

_PATIENCE = 2
"""A log that could not be compacted may grow to this multiple of the above. Then the next snapshot
is written whole, in the room that is reserved for that, or is not kept."""

TRIES = 8
"""A compaction that failed is tried again about as often until the log may not grow any more."""

LOG_BYTES_MAX = _PATIENCE * COMPACT_BYTES_MAX
"""No log is longer."""


def bytes_due(base_bytes: int) -> int:
    """From how many bytes on the log of a base of `base_bytes` is compacted."""
    return min(max(base_bytes, COMPACT_BYTES_MIN), COMPACT_BYTES_MAX)


def is_due(base_bytes: int, log_bytes: int, records: int) -> bool:
    """Whether a log is to be compacted."""
    return log_bytes >= bytes_due(base_bytes) or records >= COMPACT_RECORDS_MAX


def has_room(base_bytes: int, log_bytes: int, records: int, more: int) -> bool:
    """Whether a log may take one more record, of `more` bytes."""
    return log_bytes + more <= _PATIENCE * bytes_due(base_bytes) and records < _PATIENCE * COMPACT_RECORDS_MAX
