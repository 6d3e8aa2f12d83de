"""When is a model or adapter served everywhere? Pure: both clients poll, and ask here what the
answers mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broadsheet.errors import BroadsheetError, ServingFailed, ServingTimeout
from broadsheet.types import Adapter, DataPlane, DataPlaneResourceStatus, Model, Phase, ResourceState, ResourceStatus

DEGRADED_GRACE_S = 15.0
"""A data plane that has the new revision may still report, for a moment, that an older one failed
and is DEGRADED. What is still so after this long is about the new one."""

POLL_INTERVAL_S = 0.5
"""How often the clients ask. Two cheap reads a round."""

RPC_TIMEOUT_S_MIN, RPC_TIMEOUT_S_MAX = 1.0, 10.0
"""Deadline of one question. A control plane that is slow once is asked again."""

_READY = (ResourceState.RESOURCE_STATE_READY,)
_SERVING = (*_READY, ResourceState.RESOURCE_STATE_IDLE)
_UNREPORTED = (ResourceState.RESOURCE_STATE_UNSPECIFIED, ResourceState.RESOURCE_STATE_IDLE)
_FAILED = (ResourceState.RESOURCE_STATE_FAILED, ResourceState.RESOURCE_STATE_QUARANTINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneProgress:
    """How far one data plane got with the resource."""

    data_plane: str
    """`dataPlanes/{data_plane}`."""
    connected: bool
    """One that is not connected is not waited for."""
    snapshot_revision: int
    """Catalog revision that it serves. 0: none yet."""
    state: ResourceState.ValueType
    """What it reported about the resource; RESOURCE_STATE_UNSPECIFIED: nothing yet."""
    revision_number: int
    """The model or adapter revision that the state is about. 0: nothing reported yet."""
    reason: str
    """UPPER_SNAKE reason of the state, or empty."""
    message: str
    """The same in words."""
    serving: bool
    """Whether it serves the wanted revision: READY or, unless that is not enough, IDLE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingProgress:
    """How far the data planes got with a model or adapter."""

    resource: str
    """`models/{model}` or `models/{model}/adapters/{adapter}`."""
    revision_number: int
    """The model or adapter revision that is waited for; a later one will do."""
    catalog_revision: int
    """The catalog revision that a data plane needs for it, at least."""
    data_planes: tuple[DataPlaneProgress, ...]
    """Every data plane that the control plane knows, by id."""

    @property
    def done(self) -> bool:
        """Whether at least one data plane is connected, and every connected one serves the
        resource."""
        connected = [data_plane for data_plane in self.data_planes if data_plane.connected]
        return bool(connected) and all(data_plane.serving for data_plane in connected)

    def describe(self) -> str:
        """One line: what is still missing."""
        connected = [data_plane for data_plane in self.data_planes if data_plane.connected]
        if not self.data_planes:
            return "no data plane has ever connected to this control plane"
        if not connected:
            return f"none of the {len(self.data_planes)} known data planes is connected"
        return "; ".join(self._describe(data_plane) for data_plane in connected if not data_plane.serving)

    def _describe(self, data_plane: DataPlaneProgress) -> str:
        if data_plane.snapshot_revision < self.catalog_revision:
            has = f"catalog revision {data_plane.snapshot_revision}"
            return f"{data_plane.data_plane} serves {has}, needs {self.catalog_revision}"
        state = ResourceState.Name(data_plane.state).removeprefix("RESOURCE_STATE_")
        because = f" ({data_plane.reason}: {data_plane.message})" if data_plane.reason else ""
        return f"{data_plane.data_plane} is {state} at revision {data_plane.revision_number}{because}"


@dataclass(slots=True, kw_only=True)
class ServingWait:
    """One wait. Give each pair of answers to `update` until its result is `done`."""

    revision: int | None
    """Wanted model or adapter revision. None: the one that is current at the first update."""
    timeout_s: float
    """How long to wait, in seconds."""
    started_s: float
    """When the wait began, by a clock that never goes back."""
    require_ready: bool = False
    """Whether only READY counts, and not IDLE."""
    progress: ServingProgress | None = None
    """The newest result of `update`."""
    _degraded_since_s: dict[str, float] = field(default_factory=dict)
    """By data plane: since when it reports DEGRADED at an older revision although it has the new
    snapshot."""

    def update(self, resource: Model | Adapter, data_planes: Iterable[DataPlane], now_s: float) -> ServingProgress:
        """What the newest answers of the control plane mean.

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
        """Deadline for one question to the control plane: what is left, but time enough for an
        answer."""
        return max(RPC_TIMEOUT_S_MIN, min(RPC_TIMEOUT_S_MAX, self.started_s + self.timeout_s - now_s))

    def missed(self, error: BroadsheetError) -> None:
        """The control plane gave no answer this time. That is only the end when it never gave one.

        Raises:
            BroadsheetError: `error`.
        """
        if self.progress is None:
            raise error

    def raise_if_late(self, now_s: float) -> None:
        """Give up when the time is over.

        Raises:
            ServingTimeout: It is.
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
        # Data planes do not report adapters that are simply IDLE. Where the control plane fills in
        # that state, it does not know the number.
        if isinstance(resource, Adapter) and has_snapshot and number == 0 and state in _UNREPORTED:
            state, number = ResourceState.RESOURCE_STATE_IDLE, resource.revision.number
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
