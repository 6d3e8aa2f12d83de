"""How far the data planes got with a model or adapter. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from broadsheet.types import ResourceState


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneProgress:
    """How far one data plane got with the resource."""

    data_plane: str
    """`dataPlanes/{data_plane}`."""
    connected: bool
    """A data plane that is not connected is not waited for."""
    snapshot_revision: int
    """Catalog revision that it serves. 0: none yet."""
    state: ResourceState.ValueType
    """Its last report on the resource; RESOURCE_STATE_UNSPECIFIED: none yet."""
    revision_number: int
    """The model or adapter revision that the state is about. 0: nothing reported yet."""
    reason: str
    """UPPER_SNAKE reason of the state, or empty."""
    message: str
    """The same in words."""
    serving: bool
    """Whether it serves the wanted revision: READY or, unless READY is required, IDLE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingProgress:
    """How far the data planes got with a model or adapter."""

    resource: str
    """`models/{model}` or `models/{model}/adapters/{adapter}`."""
    revision_number: int
    """The model or adapter revision that is awaited. A later revision counts too."""
    catalog_revision: int
    """The lowest catalog revision that has it."""
    data_planes: tuple[DataPlaneProgress, ...]
    """Every data plane that the control plane knows, by id."""

    @property
    def done(self) -> bool:
        """Whether a data plane is connected, and every connected one serves the resource."""
        connected = [data_plane for data_plane in self.data_planes if data_plane.connected]
        return bool(connected) and all(data_plane.serving for data_plane in connected)

    def describe(self) -> str:
        """What is still missing, in one line."""
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
