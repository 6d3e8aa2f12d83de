"""States of resources on the data planes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.text import Text

from broadsheet.cli.view.parts import add_row, age, new_table, or_none, styled
from broadsheet.types import Adapter, DataPlaneResourceStatus, Model, ResourceState


def state_text(state: int) -> Text:
    """A resource state in its colour."""
    name = ResourceState.Name(ResourceState.ValueType(state)).removeprefix("RESOURCE_STATE_")
    return styled("-" if name == "UNSPECIFIED" else name)


def states_text(states: Sequence[int]) -> Text:
    """The states of a resource on several data planes: one word if they agree, else counts."""
    if not states:
        return Text("-")
    kinds = sorted(set(states))
    if len(kinds) == 1:
        return state_text(kinds[0])
    return Text(", ").join(state_text(kind).append(f" {states.count(kind)}") for kind in kinds)


def state_of(resource: Model | Adapter) -> Text:
    """The state of a resource on the connected data planes."""
    if resource.HasField("delete_time"):
        return Text("DELETED", style="dim")
    return states_text([item.status.state for item in resource.statuses if item.connected])


def statuses_table(statuses: Iterable[DataPlaneResourceStatus]) -> RenderableType:
    """The state of a resource on each data plane."""
    table = new_table("DATA PLANE", "STATE", "REVISION", "REPLICAS", "SINCE", "REASON", "MESSAGE")
    for item in statuses:
        status = item.status
        name = item.data_plane.removeprefix("dataPlanes/")
        add_row(
            table,
            name if item.connected else f"{name} (gone)",
            state_text(status.state),
            str(status.revision_number),
            str(status.ready_replicas),
            age(status.update_time),
            status.reason,
            status.message,
        )
    return or_none(table, "no data plane has reported it yet")
