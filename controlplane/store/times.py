"""Times as the tables keep them: whole microseconds since 1970 in UTC. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """The inverse of `to_us`, in UTC."""
    return _EPOCH + microseconds * _MICROSECOND


def to_us_or_null(moment: datetime | None) -> int | None:
    """`to_us`, with None for NULL."""
    return to_us(moment) if moment is not None else None


def from_us_or_null(microseconds: int | None) -> datetime | None:
    """`from_us`, with None for NULL."""
    return from_us(microseconds) if microseconds is not None else None
