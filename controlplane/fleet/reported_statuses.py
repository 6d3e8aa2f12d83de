"""What the data planes have reported about a resource. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from broadsheet.v1 import status_pb2
from controlplane.catalog.rollout import Observed
from controlplane.fleet.data_plane import DataPlane
from controlplane.fleet.state import FleetState

_NOT_REPORTED = status_pb2.ResourceStatus()


class Reported(NamedTuple):
    """What a data plane has reported about a resource."""

    data_plane: str
    """Its resource name."""
    connected: bool
    status: status_pb2.ResourceStatus
    """To read only."""


class ReportedStatuses:
    """Statuses of resources across the fleet."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def of(self, name: str, *, idle_since_revision: int | None = None) -> Sequence[Reported]:
        """The status of a model or adapter at each data plane that has one, by data plane id.

        Args:
            name: Its resource name.
            idle_since_revision: For an adapter, the catalog revision of its last change. Data
                planes do not report adapters that are IDLE, so a data plane that serves this
                revision and has reported no status has the adapter IDLE.
        """
        return [
            Reported(data_plane, known.connected, status)
            for data_plane, known, status in self._reported(name, idle_since_revision)
        ]

    def states_of(
        self, name: str, *, idle_since_revision: int | None = None
    ) -> Collection[status_pb2.ResourceState.ValueType]:
        """The states of a model or adapter at the connected data planes. The arguments are as in
        `of`, which costs ten times as much."""
        return {status.state for _, known, status in self._reported(name, idle_since_revision) if known.connected} - {
            status_pb2.RESOURCE_STATE_UNSPECIFIED
        }

    def observed(self, name: str) -> Sequence[Observed]:
        """What each connected data plane that votes has reported about a model revision, by id."""
        observed = []
        for data_plane, known in self._state.by_name:
            if known.connected and known.record.identity.votes:
                status = known.resources.get(name, _NOT_REPORTED)
                observed.append(
                    Observed(
                        data_plane=data_plane,
                        state=status.state,
                        reason=status.reason,
                        message=status.message,
                        connect_time=known.record.connect_time,
                    )
                )
        return observed

    def _reported(
        self, name: str, idle_since_revision: int | None
    ) -> Iterator[tuple[str, DataPlane, status_pb2.ResourceStatus]]:
        idle = status_pb2.ResourceStatus(name=name, state=status_pb2.RESOURCE_STATE_IDLE)
        for data_plane, known in self._state.by_name:
            status = known.resources.get(name)
            if status is None and idle_since_revision is not None and known.progress.serves(idle_since_revision):
                status = idle
            if status is not None:
                yield data_plane, known, status
