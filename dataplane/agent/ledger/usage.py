"""Which models and applications are in use, from the reports of the ingress replicas. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dataplane.agent.ledger.reports import Reports, ReportUpdate
from dataplane.agent.situation import Asked
from dataplane.relay.messages import IngressReport
from dataplane.snapshot.revocations.revoked_keys import RevocationsPosition
from dataplane.snapshot.snapshot import Position

_CALLERS_MAX = 64
"""Callers that are remembered for one model."""

POSITIONS_MAX = 1000
"""Ingress replicas whose positions are remembered, those heard last. Their ids are never used
again, so those that are gone stay until then."""


class Traffic(NamedTuple):
    """Requests that the ingress has answered, and those of them that failed."""

    requests: int = 0
    failures: int = 0


@dataclass(slots=True)
class Usage:
    """What the ingress replicas hold and do. Times are seconds since the epoch."""

    _ingresses: Reports[IngressReport] = field(default_factory=Reports)
    """By replica id."""
    _positions: dict[str, Position | None] = field(default_factory=dict)
    """By replica id: what it decides by, those heard last at the end. It outlives the report: a
    replica that is silent decides by the same snapshot when it goes on."""
    _last_activity: dict[str, float] = field(default_factory=dict)
    """By model or pinned revision: when it was last requested or woken. While a live report has a
    request for it in flight, that is now."""

    _asked: dict[str, Asked] = field(default_factory=dict)
    """By model or pinned revision. Its keys are those of `_last_activity`."""
    traffic: Traffic = field(default_factory=Traffic)
    """Of all ingress replicas, since they were first seen. It only rises."""

    def observe(self, update: ReportUpdate[IngressReport], now: float) -> None:
        """Take over reports, and note until when each model was in use."""
        before = self._ingresses.remembered()
        changes = self._ingresses.observe(update, now)
        for report in changes.ended.values():
            self._note_in_flight(report, now)
        for replica, report in changes.renewed.items():
            self._note_position(replica, report.position)
            self._note_traffic(before.get(replica), report)
        for report in changes.renewed.values():
            for model, usage in report.models.items():
                self.requested(model, now - max(0.0, usage.idle_s))
                if usage.waiting_callers:
                    self._note_callers(model, usage.waiting_callers)
            self._note_in_flight(report, now)

    def _note_position(self, replica: str, position: Position | None) -> None:
        self._positions.pop(replica, None)
        self._positions[replica] = position
        if len(self._positions) > POSITIONS_MAX:
            del self._positions[next(iter(self._positions))]

    def _note_traffic(self, before: IngressReport | None, report: IngressReport) -> None:
        """Add what a replica has answered since its report before. The first one adds nothing."""
        if before is None:
            return
        self.traffic = Traffic(
            self.traffic.requests + max(0, report.requests - before.requests),
            self.traffic.failures + max(0, report.failures - before.failures),
        )

    def _note_in_flight(self, report: IngressReport, now: float) -> None:
        for model, usage in report.models.items():
            if usage.in_flight:
                self.requested(model, now)

    def _note_callers(self, model: str, callers: frozenset[str]) -> None:
        """Note who waits for a model. Who leaves still counts: leaving is no way around limits."""
        asked = self._asked[model]
        known = asked.callers | callers
        self._asked[model] = replace(asked, callers=known if len(known) <= _CALLERS_MAX else callers)

    def requested(self, model: str, at: float) -> None:
        """A model or pinned revision was requested or woken."""
        self._asked.setdefault(model, Asked(since=at))
        self._last_activity[model] = max(self._last_activity.get(model, 0.0), at)

    def keep_only(self, models: Set[str]) -> None:
        """Forget the activity of all other models: it was too long ago, or they are gone."""
        self._last_activity = {model: at for model, at in self._last_activity.items() if model in models}
        self._asked = {model: asked for model, asked in self._asked.items() if model in models}

    def asked(self) -> Mapping[str, Asked]:
        """By model or pinned revision: since when it is asked for, and by whom."""
        return dict(self._asked)

    def last_activity(self, now: float) -> dict[str, float]:
        """By model or pinned revision: when it was last requested or woken."""
        return self._last_activity | dict.fromkeys(self.in_flight(now), now)

    def in_flight(self, now: float) -> dict[str, int]:
        """By model or pinned revision: requests held or forwarded, over all ingress replicas."""
        total: Counter[str] = Counter()
        for report in self._ingresses.live(now).values():
            total.update({name: usage.in_flight for name, usage in report.models.items() if usage.in_flight})
        return dict(total)

    def in_use(self, now: float) -> Mapping[str, int]:
        """By application: requests that it is answering, over all ingress replicas."""
        total: Counter[str] = Counter()
        for report in self._ingresses.live(now).values():
            total.update(report.applications)
        return total

    def ingress_sequence(self, now: float) -> int | None:
        """The oldest activation in use by an ingress replica; None: there is no ingress replica."""
        return min((report.activation_sequence for report in self._ingresses.live(now).values()), default=None)

    def ingress_positions(self) -> Mapping[str, Position | None]:
        """By ingress replica: the snapshot that it said last it decides by; None: it has none."""
        return dict(self._positions)

    def ingress_revocations(self) -> Mapping[str, RevocationsPosition]:
        """By ingress replica: the revocations of API keys that it said last it applies."""
        return {replica: report.revocations for replica, report in self._ingresses.remembered().items()}
