"""What control planes on one database tell each other about data planes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """What has changed about a data plane, told by the control plane that has its stream."""

    record: DataPlaneRecord
    session: int
    """The stream that it comes from, as `claim` numbered it."""
    connected: bool
    """Whether that stream still is."""
    settled_revision: int | None
    """The head that the data plane has dealt with: it serves or has rejected it. None: with
    none."""
    replace: bool
    """Forget the statuses that were told before."""
    statuses: Mapping[str, status_pb2.ResourceStatus | None]
    """Those that changed, by resource name. None: it is reported no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChange:
    """What has changed about a data plane since one looked last, whoever has its stream."""

    record: DataPlaneRecord
    session: int
    replica_uid: str
    """The control plane that has, or had, its stream."""
    connected: bool
    """Whether it has one, at a control plane that runs."""
    settled_revision: int | None
    number: int
    """To ask with the next time."""
    replace: bool
    """`statuses` are all there are, not only those that changed."""
    statuses: Mapping[str, status_pb2.ResourceStatus | None]
