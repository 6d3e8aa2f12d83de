"""Data planes, and what they did with a revision."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from broadsheet.cli.view.parts import DIGEST_DIGITS, add_row, age, length, moment, new_table, or_none, section, styled
from broadsheet.cli.view.states import state_text
from broadsheet.types import DataPlane, DataPlaneOutcome, Phase, Position, PositionChange

HISTORY_SHOWN = 5
"""Changes in the view of a data plane. `fleet history` shows all that are kept."""


def data_planes_table(data_planes: Iterable[DataPlane]) -> RenderableType:
    """Data planes, one per line."""
    positions = ("WAVE", "SERVING", "TARGET", "LAG", "PHASE", "REVOKED")
    table = new_table("DATA PLANE", "STREAM", "VOTES", *positions, "HTTP", "LAST SEEN", "REASON")
    for plane in data_planes:
        add_row(
            table,
            plane.name.removeprefix("dataPlanes/"),
            _stream(plane),
            "yes" if plane.votes else "no",
            _wave(plane),
            _position(plane, "serving"),
            _position(plane, "target"),
            _lag(plane),
            styled(Phase.Name(plane.phase).removeprefix("PHASE_")),
            _revocations(plane),
            plane.http_address or "-",
            age(plane.last_seen_time),
            plane.reason,
        )
    return or_none(table, "no data plane has ever connected; start one: broadsheet dataplane")


def data_plane_view(plane: DataPlane) -> RenderableType:
    """Everything about one data plane."""
    facts = Table.grid(padding=(0, 2))
    add_row(facts, "Name", plane.name)
    add_row(facts, "Stream", _stream(plane))
    identity = DataPlane.Identity.Name(plane.identity).removeprefix("IDENTITY_")
    add_row(facts, "Identity", f"{identity}, {'votes' if plane.votes else 'does not vote'} on rollouts")
    add_row(facts, "Enrolment", _enrollment(plane))
    if plane.labels:
        add_row(facts, "Labels", ",".join(f"{key}={value}" for key, value in sorted(plane.labels.items())))
    add_row(facts, "Wave", str(plane.wave) if plane.wave else "-")
    if plane.held:
        add_row(facts, "Held", plane.held)
    add_row(facts, "Serving", _position(plane, "serving"))
    add_row(facts, "Target", _position(plane, "target"))
    add_row(facts, "Lag", _lag(plane))
    add_row(facts, "Phase", styled(Phase.Name(plane.phase).removeprefix("PHASE_")))
    if plane.phase == Phase.PHASE_REJECTED:
        add_row(facts, "Rejected", _rejected(plane))
    if plane.reason:
        add_row(facts, "Reason", f"{plane.reason}: {plane.message}")
    elif plane.message:
        is_waiting = plane.phase == Phase.PHASE_PREPARED
        add_row(facts, "Waits for" if is_waiting else "Warning", plane.message)
    add_row(facts, "Revoked", _revocations(plane))
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
    resources = section("Resources", or_none(table, "none reported"))
    return Group(facts, section("History", history_table(plane.history[:HISTORY_SHOWN])), resources)


def history_table(changes: Iterable[PositionChange]) -> RenderableType:
    """What a data plane served and rejected, newest first."""
    table = new_table("TIME", "AGO", "SERVING", "PHASE", "REJECTED", "REASON")
    for change in changes:
        add_row(
            table,
            moment(change.time),
            age(change.time),
            _position(change, "serving"),
            styled(Phase.Name(change.phase).removeprefix("PHASE_")),
            _position(change, "rejected"),
            change.reason,
        )
    return or_none(table, "no change was recorded")


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


def _lag(plane: DataPlane) -> str:
    if not plane.HasField("lag"):
        return "-"
    if not plane.lag.revisions:
        return "none"
    return f"{plane.lag.revisions} rev, {length(plane.lag.duration.ToTimedelta().total_seconds())}"


def _rejected(plane: DataPlane) -> str:
    """Which snapshot it rejects, and since when."""
    rejections = (change for change in plane.history if change.HasField("rejected"))
    since = next((change.time for change in rejections if change.rejected == plane.target), None)
    return f"{_position(plane, 'target')}{f', {age(since)}' if since is not None else ''}"


def _stream(plane: DataPlane) -> Text:
    if not plane.HasField("connect_time"):
        return styled("never")
    return styled("connected" if plane.connected else "gone")


def _enrollment(plane: DataPlane) -> str:
    enrollment = plane.enrollment
    parts = []
    if enrollment.HasField("enroll_time"):
        parts.append(f"enrolled {age(enrollment.enroll_time)}")
    if enrollment.HasField("token_expire_time"):
        parts.append(f"a token can be used until {moment(enrollment.token_expire_time)}")
    return "; ".join(parts) or "none"


def _position(message: DataPlane | DataPlaneOutcome | PositionChange, field: str) -> str:
    if not message.HasField(field):  # type: ignore[arg-type]  # one of the names above
        return "-"
    position: Position = getattr(message, field)
    return f"{position.revision} · {position.digest.hex()[:DIGEST_DIGITS]}"


def _revocations(plane: DataPlane) -> str:
    """How many revocations it has reported to apply, and how many later ones there are."""
    applied = f"{plane.revocations_sequence}"
    return f"{applied}, lacks {plane.revocations_missing}" if plane.revocations_missing else applied
