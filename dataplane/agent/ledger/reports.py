"""The latest reports of replicas, as the relay passes them on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

REPORT_LIFETIME_S = 10.0
"""A report that was not renewed for this long is from a replica that is gone or silent, in
seconds."""
REMEMBERED_S = 90.0
"""How long a report is remembered that is not renewed, in seconds. The relay gives up a silent
writer after 60 s and then passes on its report no more, so that none is taken for a new one."""


class Report(Protocol):
    """What all reports have in common."""

    @property
    def reported_at(self) -> float:
        """On the sender's own clock: it differs in each renewal. It is compared with no other
        clock."""


_R = TypeVar("_R", bound=Report)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUpdate(Generic[_R]):
    """What the relay has passed on since the update before."""

    epoch: str
    """Changes when the relay was restarted: it is then empty until every replica reports again."""
    is_complete: bool = False
    """`changed` is everything that the relay holds."""
    changed: Mapping[str, _R]
    """New reports, by key. Of a complete update, some may be known already."""
    removed: Set[str] = frozenset()
    """Keys of the replicas that have withdrawn their reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportChanges(Generic[_R]):
    """What an update has changed."""

    renewed: Mapping[str, _R]
    """Reports that have just arrived, by key. One that the relay passed on again is not in it."""
    ended: Mapping[str, _R]
    """Reports that counted until now, by key: renewed, withdrawn, or no longer held by the
    relay."""


@dataclass(frozen=True, slots=True)
class _Arrival(Generic[_R]):
    report: _R
    at: float


@dataclass(slots=True)
class Reports(Generic[_R]):
    """The latest report of each replica, by key.

    The age of a report is counted from its arrival, on the clock of the one who passes `now`. The
    clocks of the nodes that replicas run on may differ by hours.
    """

    _latest: dict[str, _Arrival[_R]] = field(default_factory=dict)
    _epoch: str = ""
    _complete_from: float = 0.0
    """Until then a replica may still have to report again to a restarted relay."""

    def observe(self, update: ReportUpdate[_R], now: float) -> ReportChanges[_R]:
        """Take over an update.

        A relay of another epoch was restarted empty. Earlier reports then count until they expire,
        so that no replica seems gone only because it has not reported again yet.

        Args:
            update: What the relay has passed on.
            now: Seconds on a clock that never steps.
        """
        before = self._latest
        if self._epoch and update.epoch != self._epoch:
            self._complete_from = now + REPORT_LIFETIME_S
        self._epoch = update.epoch
        renewed, kept = update.changed, before
        if update.is_complete:
            renewed = {key: report for key, report in update.changed.items() if not self._is_known(key, report)}
        if update.is_complete and now >= self._complete_from:
            kept = {key: arrival for key, arrival in before.items() if key in update.changed}
        latest = {**kept, **{key: _Arrival(report, now) for key, report in renewed.items()}}
        self._latest = {
            key: arrival
            for key, arrival in latest.items()
            if key not in update.removed and now - arrival.at < REMEMBERED_S
        }
        ended = {
            key: arrival.report
            for key, arrival in before.items()
            if _is_live(arrival, now) and self._latest.get(key) is not arrival
        }
        return ReportChanges(renewed=renewed, ended=ended)

    def _is_known(self, key: str, report: _R) -> bool:
        known = self._latest.get(key)
        return known is not None and known.report == report

    def forget(self, prefix: str) -> None:
        """Drop the reports whose keys begin with `prefix`: their replicas are known to be gone."""
        self._latest = {key: arrival for key, arrival in self._latest.items() if not key.startswith(prefix)}

    def remembered(self) -> dict[str, _R]:
        """The latest reports, also of silent replicas, by key."""
        return {key: arrival.report for key, arrival in self._latest.items()}

    def live(self, now: float) -> dict[str, _R]:
        """The reports that were renewed in time before `now`, by key."""
        return {key: arrival.report for key, arrival in self._latest.items() if _is_live(arrival, now)}


def _is_live(arrival: _Arrival[_R], now: float) -> bool:
    return now - arrival.at < REPORT_LIFETIME_S
