"""What the data planes have reported about a resource. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broadsheet.v1 import status_pb2
from controlplane.catalog.rollout import Observed
from controlplane.fleet.state import FleetState
from protocol.names import data_plane_name

_NOT_REPORTED = status_pb2.ResourceStatus()


class ReportedStatuses:
    """Statuses of resources across the fleet."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def of(self, name: str, *, idle_since_revision: int | None = None) -> Sequence[status_pb2.DataPlaneResourceStatus]:
        """The status of a model or adapter at each data plane that has one, by data plane id.

        Args:
            name: Its resource name.
            idle_since_revision: For an adapter, the catalog revision of its last change. Data
                planes do not report adapters that are IDLE, so a data plane that serves this
                revision and has reported no status has the adapter IDLE.
        """
        statuses = []
        for data_plane_id, known in self._state.items():
            status = known.resources.get(name)
            if status is None and idle_since_revision is not None and known.progress.serves(idle_since_revision):
                status = status_pb2.ResourceStatus(name=name, state=status_pb2.RESOURCE_STATE_IDLE)
            if status is not None:
                statuses.append(
                    status_pb2.DataPlaneResourceStatus(
                        data_plane=data_plane_name(data_plane_id), connected=known.connected, status=status
                    )
                )
        return statuses

    def observed(self, name: str) -> Sequence[Observed]:
        """What each connected data plane that votes has reported about a model revision, by id."""
        observed = []
        for data_plane_id, known in self._state.items():
            if known.connected and known.record.identity.votes:
                status = known.resources.get(name, _NOT_REPORTED)
                observed.append(
                    Observed(
                        data_plane=data_plane_name(data_plane_id),
                        state=status.state,
                        reason=status.reason,
                        message=status.message,
                        connect_time=known.record.connect_time,
                    )
                )
        return observed
