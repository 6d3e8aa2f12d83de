"""What the agent knows of the cluster, from the relay and from Ray Serve, as the reconciler wants
it. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from broadsheet.v1 import status_pb2
from dataplane.agent.situation import Application, Phase
from dataplane.relay.messages import (
    ApplicationRecord,
    EngineReport,
    IngressReport,
    Message,
    ReplicaPlaced,
    SleepOrder,
    StartFailure,
    Wake,
)
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.activation import Endpoint
from dataplane.snapshot.snapshot import Position

APPLICATION_PREFIX = "application/"
WAKE_PREFIX = "wake/"
INGRESS_PREFIX = "ingress/"
ENGINE_PREFIX = "engine/"
FAILURE_PREFIX = "failure/"
PLACED_PREFIX = "placed/"
SLEEP_PREFIX = "sleep/"

_PREFIXES = {
    Topic.APPLICATIONS: APPLICATION_PREFIX,
    Topic.SLEEP_ORDERS: SLEEP_PREFIX,
    Topic.INGRESSES: INGRESS_PREFIX,
    Topic.ENGINES: ENGINE_PREFIX,
}
_MESSAGE_PREFIXES = (WAKE_PREFIX, FAILURE_PREFIX, PLACED_PREFIX)
WATCHED_TOPICS = tuple(_PREFIXES)

REPORT_LIFETIME_S = 10.0
"""A report that was not renewed for this long is from a replica that is gone."""

TAKEN_ON_S = 10.0
"""How long an agent that has died may have been at making an application."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Track:
    """What the agent remembers of one application beyond what is on the relay."""

    deployed_at: float | None = None
    """When this agent began to make it, in seconds since the epoch. None: an agent before this one
    did."""
    taken_on_at: float | None = None
    """When Ray Serve had taken it on. None: it has not yet, or an agent before this one made it."""
    ready_at: float | None = None
    """When it first had an endpoint; seconds since the epoch."""
    first_replica: str = ""
    """Who that was."""
    deleting: bool = False
    """It was told to go."""
    left_sequence: int = 0
    """Sequence of the first activation without it, after one with it."""
    left_at: float | None = None
    """When that was."""
    serve_message: str = ""
    """Ray Serve's words on it, while it starts."""
    failure: tuple[str, str] | None = None
    """Reason and words, when it could not start."""


@dataclass(slots=True)
class Cluster:
    """The relay's keys as last seen, and a `Track` for each application."""

    values: dict[str, object] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    _epoch: str = ""
    _missed_until: dict[str, float] = field(default_factory=dict)
    """Keys that a restarted relay has not got back yet, and when they are given up; seconds since
    the epoch."""

    def apply(self, changed: Mapping[str, object], live: frozenset[str], *, epoch: str, now: float) -> None:
        """Take over what a long poll found.

        A relay of another epoch has forgotten everything and is told again by everyone, each in its
        time: until then what it knew before holds, so that no application seems gone that only its
        record is.
        """
        if self._epoch and epoch != self._epoch:
            self._missed_until = dict.fromkeys(self.values.keys() - live, now + REPORT_LIFETIME_S)
        self._epoch = epoch
        self.values.update(changed)
        self._missed_until = {
            key: until for key, until in self._missed_until.items() if key not in live and until > now
        }
        for key in self.values.keys() - live - self._missed_until.keys():
            del self.values[key]

    def take(self, message: Message) -> None:
        """Take over a message."""
        match message:
            case Wake():
                self.values[f"{WAKE_PREFIX}{message.model}"] = message.requested_at
            case ReplicaPlaced():
                self.values[f"{PLACED_PREFIX}{message.application}"] = message.placed_at
            case StartFailure():
                self.values[f"{FAILURE_PREFIX}{message.application}/{message.replica_id}"] = message

    def from_messages(self) -> frozenset[str]:
        """The keys that stand for messages."""
        return frozenset(key for key in self.values if key.startswith(_MESSAGE_PREFIXES))

    def _under(self, prefix: str, kind: type[_T]) -> dict[str, _T]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.values.items()
            if key.startswith(prefix) and isinstance(value, kind)
        }

    def records(self) -> dict[str, ApplicationRecord]:
        """The applications that the agent made, by name."""
        return self._under(APPLICATION_PREFIX, ApplicationRecord)

    def had_taken_on(self, record: ApplicationRecord, asked_at: float) -> bool:
        """Whether Ray Serve had taken an application on when it was asked; in seconds since the
        epoch.

        If so, what it said is about this application, and if it did not have it, the application is
        gone.
        """
        track = self.tracks.get(record.name) or Track()
        if track.deleting:
            return True
        if track.deployed_at is None:
            return asked_at > record.created_at + TAKEN_ON_S
        return track.taken_on_at is not None and asked_at > track.taken_on_at

    def wakes(self) -> dict[str, float]:
        """By model: when it was asked for."""
        return self._under(WAKE_PREFIX, float)

    def ingresses(self, now: float) -> list[IngressReport]:
        """Reports of the ingress replicas that live."""
        reports = self._under(INGRESS_PREFIX, IngressReport).values()
        return [report for report in reports if now - report.reported_at < REPORT_LIFETIME_S]

    def engines(self, now: float) -> dict[str, dict[str, EngineReport]]:
        """Reports of the engine replicas that live: by application and replica id."""
        found: dict[str, dict[str, EngineReport]] = defaultdict(dict)
        for key, report in self._under(ENGINE_PREFIX, EngineReport).items():
            if now - report.reported_at < REPORT_LIFETIME_S:
                application, _, replica = key.partition("/")
                found[application][replica] = report
        return dict(found)

    def note_start_failures(self) -> None:
        """Take over why applications could not start."""
        for key, failure in self._under(FAILURE_PREFIX, StartFailure).items():
            track = self.tracks.get(key.partition("/")[0])
            # One that has answered before is being healed by Ray Serve; it has not failed to start.
            if track is not None and track.ready_at is None and not track.deleting:
                track.failure = (failure.reason, failure.message)

    def applications(self, now: float, drain_s: float) -> dict[str, Application]:
        """What the reconciler plans with."""
        engines = self.engines(now)
        in_use: Counter[str] = Counter()
        for report in self.ingresses(now):
            in_use.update(report.applications)
        found = {}
        for name, record in self.records().items():
            track = self.tracks.setdefault(name, Track())
            reports = sorted(engines.get(name, {}).items())
            told = self.rest(name)
            # One that has not yet done what it was told may be about to sleep.
            endpoints = tuple(
                Endpoint(replica_id=replica, url=report.url)
                for replica, report in reports
                if report.sleep_order == told and not told.asleep
            )
            if reports and track.ready_at is None:
                track.ready_at = now
                track.first_replica = reports[0][0]
                track.failure = None
            found[name] = Application(
                name=name,
                model=record.model,
                revision_number=record.revision_number,
                phase=_phase(track),
                created_at=record.created_at,
                endpoints=() if track.deleting else endpoints,
                secret=record.secret,
                replica_bounds=record.replica_bounds,
                ready_at=track.ready_at,
                in_use=in_use[name],
                left_sequence=track.left_sequence,
                reason=track.failure[0] if track.failure else "",
                message=track.failure[1] if track.failure else track.serve_message,
                drain_overdue=track.left_at is not None and now - track.left_at > drain_s,
                asleep=told.asleep,
                all_asleep=told.asleep and all(report.sleep_order == told for _, report in reports),
                placed=track.ready_at is not None or f"{PLACED_PREFIX}{name}" in self.values,
                resources=record.resources,
            )
        return found

    def rest(self, application: str) -> SleepOrder:
        """What its replicas were told last."""
        told = self.values.get(f"{SLEEP_PREFIX}{application}")
        return told if isinstance(told, SleepOrder) else SleepOrder()

    def cold_starts(self, now: float) -> dict[str, status_pb2.ColdStart]:
        """How long the applications that this agent made took to start, by application; without
        those that have not."""
        engines = self.engines(now)
        waits: dict[str, float] = {}
        for ingress in self._under(INGRESS_PREFIX, IngressReport).values():
            for usage in ingress.models.values():
                if usage.first_byte is not None:
                    replica = usage.first_byte.replica_id
                    waits[replica] = max(waits.get(replica, 0.0), usage.first_byte.seconds)
        found = {}
        for name, track in self.tracks.items():
            report = engines.get(name, {}).get(track.first_replica)
            if track.deployed_at is None or track.ready_at is None or report is None:
                continue
            cold_start = status_pb2.ColdStart()
            cold_start.start.FromTimedelta(timedelta(seconds=track.ready_at - track.deployed_at))
            cold_start.engine_start.FromTimedelta(timedelta(seconds=report.start_s))
            cold_start.ready_time.FromNanoseconds(int(track.ready_at * 1e9))
            if report.weights_s is not None:
                cold_start.weights_load.FromTimedelta(timedelta(seconds=report.weights_s))
            if track.first_replica in waits:
                cold_start.first_token.FromTimedelta(timedelta(seconds=waits[track.first_replica]))
            found[name] = cold_start
        return found

    def in_flight(self, now: float) -> dict[str, int]:
        """By model: requests held or forwarded, over all ingress replicas."""
        total: Counter[str] = Counter()
        for report in self.ingresses(now):
            total.update({name: usage.in_flight for name, usage in report.models.items()})
        return dict(total)

    def note_activity(self, now: float, last_activity: dict[str, float]) -> None:
        """Bring `last_activity` (by model) up to date with wakes and with the ingress replicas'
        reports."""
        for model, at in self.wakes().items():
            last_activity[model] = max(last_activity.get(model, 0.0), min(at, now))
        for report in self._under(INGRESS_PREFIX, IngressReport).values():
            for model, usage in report.models.items():
                if usage.in_flight:
                    last_activity[model] = now
                else:
                    last_activity[model] = max(last_activity.get(model, 0.0), min(usage.last_request_at, now))

    def ingress_sequence(self, now: float) -> int | None:
        """The oldest activation that some ingress replica decides by; None when there is no ingress
        replica."""
        return min((report.activation_sequence for report in self.ingresses(now)), default=None)

    def ingresses_hold(self, now: float, position: Position) -> bool:
        """Whether every ingress replica decides by the snapshot at `position`."""
        return all(report.position == position for report in self.ingresses(now))


def value_key(key: Key) -> str:
    """The key of `Cluster.values` for one of the relay."""
    return f"{_PREFIXES[key.topic]}{key.name}"


def _phase(track: Track) -> Phase:
    if track.deleting:
        return Phase.DELETING
    if track.failure is not None:
        return Phase.FAILED
    return Phase.STARTING if track.ready_at is None else Phase.RUNNING
