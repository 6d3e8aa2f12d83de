"""Data planes, and what they did with a revision."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table

from broadsheet.cli.view.parts import DIGEST_DIGITS, add_row, age, new_table, or_none, section, styled
from broadsheet.cli.view.states import state_text
from broadsheet.types import DataPlane, DataPlaneOutcome, Phase, Position


def data_planes_table(data_planes: Iterable[DataPlane]) -> RenderableType:
    """Data planes, one per line."""
    table = new_table(
        "DATA PLANE", "STREAM", "VOTES", "WAVE", "SERVING", "TARGET", "PHASE", "HTTP", "LAST SEEN", "REASON"
    )
    for plane in data_planes:
        add_row(
            table,
            plane.name.removeprefix("dataPlanes/"),
            styled("connected" if plane.connected else "gone"),
            "yes" if plane.votes else "no",
            _wave(plane),
            _position(plane, "serving"),
            _position(plane, "target"),
            styled(Phase.Name(plane.phase).removeprefix("PHASE_")),
            plane.http_address or "-",
            age(plane.last_seen_time),
            plane.reason,
        )
    return or_none(table, "no data plane has ever connected; start one: broadsheet dataplane")


def data_plane_view(plane: DataPlane) -> RenderableType:
    """Everything about one data plane."""
    facts = Table.grid(padding=(0, 2))
    add_row(facts, "Name", plane.name)
    add_row(facts, "Stream", styled("connected" if plane.connected else "gone"))
    identity = DataPlane.Identity.Name(plane.identity).removeprefix("IDENTITY_")
    add_row(facts, "Identity", f"{identity}, {'votes' if plane.votes else 'does not vote'} on rollouts")
    if plane.labels:
        add_row(facts, "Labels", ",".join(f"{key}={value}" for key, value in sorted(plane.labels.items())))
    add_row(facts, "Wave", str(plane.wave) if plane.wave else "-")
    if plane.held:
        add_row(facts, "Held", plane.held)
    add_row(facts, "Serving", _position(plane, "serving"))
    add_row(facts, "Target", _position(plane, "target"))
    add_row(facts, "Phase", styled(Phase.Name(plane.phase).removeprefix("PHASE_")))
    if plane.reason:
        add_row(facts, "Reason", f"{plane.reason}: {plane.message}")
    elif plane.message:
        is_waiting = plane.phase == Phase.PHASE_PREPARED
        add_row(facts, "Waits for" if is_waiting else "Warning", plane.message)
    add_row(facts, "HTTP", plane.http_address or "-")
    add_row(facts, "Release", plane.software_version or "-")
    add_row(facts, "Connected", age(plane.connect_time))
    add_row(facts, "Last seen", age(plane.last_seen_time))
    table = new_table("RESOURCE", "STATE", "REVISION", "REPLICAS", "SINCE", "APPLICATION", "REASON", "MESSAGE")
    for status in plane.resources:
        add_row(
            table,
            status.name,
            state_text(status.state),
            str(status.revision_number),
            str(status.ready_replicas),
            age(status.update_time),
            status.application or "-",
            status.reason,
            status.message,
        )
    return Group(facts, section("Resources", or_none(table, "none reported")))


def outcomes_table(outcomes: Iterable[DataPlaneOutcome]) -> RenderableType:
    """What each data plane did with a revision."""
    table = new_table("DATA PLANE", "OUTCOME", "SERVING", "REASON", "MESSAGE")
    for item in outcomes:
        add_row(
            table,
            item.data_plane.removeprefix("dataPlanes/"),
            styled(DataPlaneOutcome.Outcome.Name(item.outcome).removeprefix("OUTCOME_")),
            _position(item, "serving"),
            item.reason,
            item.message,
        )
    return or_none(table, "no data plane is known")


def _wave(plane: DataPlane) -> str:
    number = str(plane.wave) if plane.wave else "-"
    return f"{number} held" if plane.held else number


def _position(message: DataPlane | DataPlaneOutcome, field: str) -> str:
    if not message.HasField(field):  # type: ignore[arg-type]  # one of the names above
        return "-"
    position: Position = getattr(message, field)
    return f"{position.revision} · {position.digest.hex()[:DIGEST_DIGITS]}"
