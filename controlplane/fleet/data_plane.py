"""What is known of one data plane, and the changes that other control planes lack. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NewType, Protocol

from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord
from controlplane.fleet.history import History
from controlplane.fleet.progress import Progress, ResourceChange
from controlplane.store.fleet.reports import FleetChange, FleetReport

Session = NewType("Session", int)
"""The number of a stream among all that a data plane has had. A higher number supersedes the
others. On a shared database it is unique across control planes."""

NO_SESSION = Session(0)


_UNWELL = (status_pb2.RESOURCE_STATE_FAILED, status_pb2.RESOURCE_STATE_QUARANTINED)


class Traffic(NamedTuple):
    """What the ingress of a data plane has answered since its agent started."""

    requests: int = 0
    failures: int = 0

    @property
    def error_share(self) -> float:
        """Of 1."""
        return self.failures / self.requests if self.requests else 0.0


NO_TRAFFIC = Traffic()


class Connection(Protocol):
    """The stream of a data plane. The fan-out has it."""

    @property
    def traffic(self) -> Traffic | None:
        """What the data plane has reported of its traffic; None: nothing."""

    @property
    def settled_revision(self) -> int | None:
        """The head, if the data plane serves or has rejected it; else None."""

    def supersede(self) -> None:
        """End it: a newer stream of the same data plane has taken its place."""

    def dismiss(self) -> None:
        """End it: an operator has removed the data plane."""


@dataclass(slots=True)
class UnsharedChanges:
    """Changes of resource statuses that have not been written to the shared database."""

    replace: bool = False
    """The others are to forget all statuses from before `statuses`."""
    statuses: dict[str, status_pb2.ResourceStatus | None] = field(default_factory=dict)
    """By resource name. None: the resource is no longer reported."""

    def add(self, change: ResourceChange) -> None:
        """Add a later change."""
        if change.replace:
            self.statuses.clear()
            self.replace = True
        self.statuses.update({resource.name: resource for resource in change.updated})
        self.statuses.update(dict.fromkeys(change.removed))

    def prepend(self, report: FleetReport) -> None:
        """Put back what could not be written, before what has come since."""
        if not self.replace:
            self.statuses = {**report.statuses, **self.statuses}
            self.replace = report.replace

    def __bool__(self) -> bool:
        return self.replace or bool(self.statuses)


@dataclass(slots=True, kw_only=True)
class DataPlane:
    """What is known of one data plane. `resources` outlives the stream, but not the process."""

    record: DataPlaneRecord
    progress: Progress
    resources: dict[str, status_pb2.ResourceStatus] = field(default_factory=dict)
    unwell: dict[str, status_pb2.ResourceStatus] = field(default_factory=dict)
    """Those of `resources` that are FAILED or QUARANTINED."""
    connection: Connection | None = None
    """Its stream at this control plane."""
    has_reported: bool = False
    """All of `resources` are those that it reported on `connection`."""
    session: Session = NO_SESSION
    """Of `connection`, or of the last stream at any control plane."""
    stored: DataPlaneRecord | None = None
    """The record as the database has it."""
    elsewhere: FleetChange | None = None
    """What the shared database said last, without statuses; None: nothing."""
    unshared: UnsharedChanges = field(default_factory=UnsharedChanges)
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = History.of(self.stored)

    @property
    def connected(self) -> bool:
        """Whether it has a stream, at this control plane or another."""
        return self.connection is not None or (self.elsewhere is not None and self.elsewhere.connected)

    @property
    def settled_revision(self) -> int | None:
        """The head that it serves or has rejected; None: it has yet to deal with the head."""
        if self.connection is not None:
            return self.connection.settled_revision
        return self.elsewhere.settled_revision if self.elsewhere is not None else None

    @property
    def traffic(self) -> Traffic | None:
        """What it has reported of its traffic on its stream here; None: nothing."""
        return self.connection.traffic if self.connection is not None else None

    def end_stream(self) -> None:
        """Another stream has taken the place of the one at this control plane, if it has one."""
        if self.connection is not None:
            self.connection.supersede()
            self.lose_stream()

    def lose_stream(self) -> None:
        """It has no stream at this control plane any more."""
        self.connection, self.has_reported = None, False

    def bounded(self, change: ResourceChange, *, statuses_max: int) -> ResourceChange:
        """The part of a change that is kept of at most so many statuses: names may be made up."""
        held = {} if change.replace else self.resources
        room = statuses_max - len(held)
        updated = []
        for status in change.updated:
            is_new = status.name not in held
            if room > 0 or not is_new:
                updated.append(status)
            room -= is_new
        names = {status.name for status in updated}
        removed = tuple(name for name in change.removed if name in held or name in names)
        return replace(change, updated=tuple(updated), removed=removed)

    def apply(self, change: ResourceChange) -> None:
        """Take a change of its resources."""
        if change.replace:
            self.resources.clear()
            self.unwell.clear()
        for resource in change.updated:
            self.resources[resource.name] = resource
            if resource.state in _UNWELL:
                self.unwell[resource.name] = resource
            else:
                self.unwell.pop(resource.name, None)
        for name in change.removed:
            self.resources.pop(name, None)
            self.unwell.pop(name, None)

    def apply_shared(self, statuses: Mapping[str, status_pb2.ResourceStatus | None], *, replace: bool) -> None:
        """Take a change of its resources from the shared database; None removes a resource."""
        updated = tuple(status for status in statuses.values() if status is not None)
        removed = tuple(name for name, status in statuses.items() if status is None)
        self.apply(ResourceChange(replace=replace, updated=updated, removed=removed))

    def take_report(self) -> FleetReport:
        """What the database is to have next. Changed statuses in it count as shared."""
        report = FleetReport(
            record=replace(self.record, change_count=self.history.count, changes=tuple(self.history.unwritten)),
            session=self.session,
            connected=self.connection is not None,
            settled_revision=self.settled_revision,
            replace=self.unshared.replace,
            statuses=self.unshared.statuses,
        )
        self.unshared = UnsharedChanges()
        return report
