"""Decides when a model or adapter is served everywhere. Pure.

Both clients poll the control plane and pass its answers to a `ServingWait`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broadsheet.errors import BroadsheetError, ServingFailed, ServingTimeout
from broadsheet.progress import DataPlaneProgress, ServingProgress
from broadsheet.types import Adapter, DataPlane, DataPlaneResourceStatus, Model, Phase, ResourceState, ResourceStatus

DEGRADED_GRACE_S = 15.0
"""A data plane that has the new revision may briefly report DEGRADED for an older one that failed.
After this long the report is taken to be about the new revision."""

POLL_INTERVAL_S = 0.5
"""Time between two polls. Each poll is two cheap reads."""

RPC_TIMEOUT_S_MIN, RPC_TIMEOUT_S_MAX = 1.0, 10.0
"""Deadline of one poll. After a slow answer the next poll tries again."""

_READY = (ResourceState.RESOURCE_STATE_READY,)
_SERVING = (*_READY, ResourceState.RESOURCE_STATE_IDLE)
_UNREPORTED = (ResourceState.RESOURCE_STATE_UNSPECIFIED, ResourceState.RESOURCE_STATE_IDLE)
_FAILED = (ResourceState.RESOURCE_STATE_FAILED, ResourceState.RESOURCE_STATE_QUARANTINED)


@dataclass(slots=True, kw_only=True)
class ServingWait:
    """One wait: pass each pair of answers to `update` until its result is `done`."""

    revision: int | None
    """Awaited model or adapter revision. None: the current one at the first update."""
    timeout_s: float
    """How long to wait, in seconds."""
    started_s: float
    """When the wait began, on a monotonic clock."""
    require_ready: bool = False
    """Whether READY is required: IDLE does not count."""
    progress: ServingProgress | None = None
    """The newest result of `update`."""
    _idle_seen: set[str] = field(default_factory=set)
    """Data planes that had the snapshot, and the adapter IDLE, at the update before."""
    _degraded_since_s: dict[str, float] = field(default_factory=dict)
    """By data plane: since when it reports DEGRADED at an older revision despite having the new
    snapshot."""

    def update(self, resource: Model | Adapter, data_planes: Iterable[DataPlane], now_s: float) -> ServingProgress:
        """The progress that the newest answers of the control plane show.

        Args:
            resource: From GetModel or GetAdapter, with statuses.
            data_planes: From ListDataPlanes.
            now_s: The same clock as `started_s`.

        Raises:
            ServingFailed: A connected data plane cannot serve the resource.
        """
        if self.revision is None:
            self.revision = resource.revision.number
        statuses = {status.data_plane: status for status in resource.statuses}
        self.progress = ServingProgress(
            resource=resource.name,
            revision_number=self.revision,
            catalog_revision=resource.catalog_revision,
            data_planes=tuple(self._judge(resource, plane, statuses, now_s) for plane in data_planes),
        )
        return self.progress

    def rpc_timeout_s(self, now_s: float) -> float:
        """Deadline of one poll: the time left, within the bounds for one answer."""
        return max(RPC_TIMEOUT_S_MIN, min(RPC_TIMEOUT_S_MAX, self.started_s + self.timeout_s - now_s))

    def missed(self, error: BroadsheetError) -> None:
        """Note that a poll failed. The wait goes on if an earlier poll succeeded.

        Raises:
            BroadsheetError: `error`, when no poll has succeeded yet.
        """
        if self.progress is None:
            raise error

    def raise_if_late(self, now_s: float) -> None:
        """Give up when the time is over.

        Raises:
            ServingTimeout: The time is over.
        """
        if self.progress is not None and now_s - self.started_s >= self.timeout_s:
            raise ServingTimeout(
                f"{self.progress.resource} is not served everywhere after {self.timeout_s:g} s: "
                f"{self.progress.describe()}",
                progress=self.progress,
            )

    def _judge(
        self,
        resource: Model | Adapter,
        plane: DataPlane,
        statuses: Mapping[str, DataPlaneResourceStatus],
        now_s: float,
    ) -> DataPlaneProgress:
        wanted = self.revision or 0
        has_snapshot = plane.HasField("serving") and plane.serving.revision >= resource.catalog_revision
        status = statuses[plane.name].status if plane.name in statuses else ResourceStatus()
        state, number = status.state, status.revision_number
        # Data planes do not report adapters that are merely IDLE. The control plane fills that
        # state in, without a revision number.
        if isinstance(resource, Adapter) and has_snapshot and number == 0 and state in _UNREPORTED:
            state = ResourceState.RESOURCE_STATE_IDLE
            # With a new snapshot a data plane may report that it has an engine load the adapter.
            # The report comes a moment after the snapshot, so IDLE has to be seen twice.
            number = resource.revision.number if plane.name in self._idle_seen else 0
            self._idle_seen.add(plane.name)
        else:
            self._idle_seen.discard(plane.name)
        progress = DataPlaneProgress(
            data_plane=plane.name,
            connected=plane.connected,
            snapshot_revision=plane.serving.revision,
            state=state,
            revision_number=number,
            reason=status.reason,
            message=status.message,
            serving=has_snapshot and state in (_READY if self.require_ready else _SERVING) and number >= wanted,
        )
        if plane.connected:
            self._raise_if_failed(resource, plane, progress, has_snapshot, now_s)
        return progress

    def _raise_if_failed(
        self, resource: Model | Adapter, plane: DataPlane, progress: DataPlaneProgress, has_snapshot: bool, now_s: float
    ) -> None:
        rejected = plane.phase == Phase.PHASE_REJECTED and plane.target.revision >= resource.catalog_revision
        if rejected and not has_snapshot:
            raise ServingFailed(
                f"{plane.name} rejected catalog revision {plane.target.revision}: {plane.message}",
                reason=plane.reason,
                data_plane=plane.name,
                resource=resource.name,
            )
        wanted = self.revision or 0
        stuck = progress.state == ResourceState.RESOURCE_STATE_DEGRADED and progress.revision_number < wanted
        if has_snapshot and stuck:
            since_s = self._degraded_since_s.setdefault(plane.name, now_s)
            stuck = now_s - since_s >= DEGRADED_GRACE_S
        else:
            self._degraded_since_s.pop(plane.name, None)
            stuck = False
        failed = has_snapshot and progress.state in _FAILED and progress.revision_number >= wanted
        if failed or stuck:
            state = ResourceState.Name(progress.state).removeprefix("RESOURCE_STATE_")
            raise ServingFailed(
                f"{resource.name} is {state} on {plane.name}: {progress.message or progress.reason}",
                reason=progress.reason or state,
                data_plane=plane.name,
                resource=resource.name,
            )
