"""What control planes on one database report to each other about data planes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """Changes of a data plane, reported by the control plane that has its stream."""

    record: DataPlaneRecord
    session: int
    """Number of the stream that it comes from, as returned by `FleetTables.claim`."""
    connected: bool
    """Whether that stream is open."""
    settled_revision: int | None
    """Revision of the last head that the data plane serves or has rejected. None: there is none."""
    replace: bool
    """Delete the statuses of earlier reports."""
    statuses: Mapping[str, status_pb2.ResourceStatus | None]
    """Changed statuses by resource name. None: the resource is not reported any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChange:
    """Changes of a data plane since the last read, whichever control plane has its stream."""

    record: DataPlaneRecord
    session: int
    replica_uid: str
    """The control plane that has or had its stream."""
    connected: bool
    """Whether its stream is open, at a control plane that is running."""
    settled_revision: int | None
    number: int
    """Number of this state, for the next read."""
    replace: bool
    """`statuses` has all statuses, not only those that changed."""
    statuses: Mapping[str, status_pb2.ResourceStatus | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReading:
    """What the database has about data planes, as of one moment."""

    changes: Sequence[FleetChange]
    """By id."""
    ids: AbstractSet[str]
    """Ids of all data planes in the database, also of those without a change. Others that were
    there before are removed."""
