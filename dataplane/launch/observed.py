"""What a data plane on a Ray cluster does, as `status` shows it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dataplane.relay.messages import ApplicationRecord, IngressReport
from dataplane.snapshot.snapshot import Position

NO_STATE = "MISSING"
"""The state of an application that Ray Serve does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedIngress:
    """One ingress replica whose process lives."""

    replica_id: str
    position: Position | None
    """The snapshot that it decides by; None: none yet, or it has not reported."""
    in_flight: int
    """Requests to models that it holds or forwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedApplication:
    """The application of one model."""

    name: str
    """In Ray Serve."""
    model: str
    """Resource name; empty: the agent has no record of it (any more)."""
    revision_number: int
    state: str
    """Ray Serve's word."""
    ready_replicas: int
    """Engine replicas that have reported where they listen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One data plane."""

    data_plane_id: str
    release: str
    http: str
    agent: str
    """Ray Serve's word for the state of the agent's application."""
    ingress: str
    """The same for the ingress."""
    ingress_replicas: tuple[ObservedIngress, ...]
    applications: tuple[ObservedApplication, ...]

    @property
    def position(self) -> Position | None:
        """The snapshot that every ingress replica decides by. None: they have none, or several."""
        held = {replica.position for replica in self.ingress_replicas}
        return held.pop() if len(held) == 1 else None


def ingress_replicas(live: Iterable[str], reports: Mapping[str, IngressReport]) -> tuple[ObservedIngress, ...]:
    """The ingress replicas that live, with what they report."""
    found = []
    for replica_id in sorted(live):
        report = reports.get(replica_id)
        found.append(
            ObservedIngress(
                replica_id=replica_id,
                position=report.position if report else None,
                in_flight=sum(usage.in_flight for usage in report.models.values()) if report else 0,
            )
        )
    return tuple(found)


def applications(
    states: Mapping[str, str], records: Mapping[str, ApplicationRecord], ready: Mapping[str, int]
) -> tuple[ObservedApplication, ...]:
    """The applications of models that Ray Serve has, or the agent means it to have.

    Args:
        states: Ray Serve's, by application.
        records: The agent's, by application.
        ready: Engine replicas that report, by application.
    """
    return tuple(
        ObservedApplication(
            name=name,
            model=records[name].model if name in records else "",
            revision_number=records[name].revision_number if name in records else 0,
            state=states.get(name, NO_STATE),
            ready_replicas=ready.get(name, 0),
        )
        for name in sorted(states.keys() | records.keys())
    )
