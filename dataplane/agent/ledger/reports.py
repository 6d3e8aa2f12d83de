"""The latest reports of replicas, as the relay passes them on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

REPORT_LIFETIME_S = 10.0
"""A report that was not renewed for this long is from a replica that is gone, in seconds."""


class Report(Protocol):
    """What all reports have in common."""

    @property
    def reported_at(self) -> float:
        """Seconds since the epoch."""


_R = TypeVar("_R", bound=Report)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUpdate(Generic[_R]):
    """What the relay has passed on since the update before."""

    epoch: str
    """Changes when the relay was restarted: it is then empty until every replica reports again."""
    is_complete: bool = False
    """`changed` is everything that the relay holds."""
    changed: Mapping[str, _R]
    """New reports, by key."""
    removed: Set[str] = frozenset()
    """Keys of the replicas that have withdrawn their reports."""


@dataclass(slots=True)
class Reports(Generic[_R]):
    """The latest report of each replica, by key."""

    _latest: dict[str, _R] = field(default_factory=dict)
    _epoch: str = ""
    _complete_from: float = 0.0
    """Until then a replica may still have to report again to a restarted relay; seconds since the
    epoch."""

    def observe(self, update: ReportUpdate[_R], now: float) -> dict[str, _R]:
        """Take over an update.

        A relay of another epoch was restarted empty. Earlier reports then count until they expire,
        so that no replica seems gone only because it has not reported again yet.

        Args:
            update: What the relay has passed on.
            now: Seconds since the epoch.

        Returns:
            The reports that no longer count: withdrawn, expired, or no longer held by the relay.
        """
        before = self._latest
        if self._epoch and update.epoch != self._epoch:
            self._complete_from = now + REPORT_LIFETIME_S
        self._epoch = update.epoch
        kept = {} if update.is_complete and now >= self._complete_from else before
        latest = {**kept, **update.changed}
        self._latest = {
            key: report for key, report in latest.items() if key not in update.removed and is_live(report, now)
        }
        return {key: report for key, report in before.items() if key not in self._latest}

    def forget(self, prefix: str) -> None:
        """Drop the reports whose keys begin with `prefix`: their replicas are known to be gone."""
        self._latest = {key: report for key, report in self._latest.items() if not key.startswith(prefix)}

    def get(self, key: str) -> _R | None:
        """The latest report of a replica."""
        return self._latest.get(key)

    def live(self, now: float) -> dict[str, _R]:
        """The reports that count at `now`, by key."""
        return {key: report for key, report in self._latest.items() if is_live(report, now)}


def is_live(report: Report, now: float) -> bool:
    """Whether the report was renewed in time."""
    return now - report.reported_at < REPORT_LIFETIME_S
