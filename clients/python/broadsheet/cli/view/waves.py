"""The policy and the rollout of the fleet."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from broadsheet.cli.view.parts import add_row, age, new_table, or_none, section, styled
from broadsheet.types import FleetPolicy, FleetRollout, Wave

TIMEOUT_DEFAULT_S = 1800


def policy_view(policy: FleetPolicy) -> RenderableType:
    """The waves in their order, and the limits."""
    if not policy.waves:
        return (
            "no policy: every data plane gets each snapshot at once; set one: broadsheet fleet policy set -f FILE.yaml"
        )
    table = new_table("WAVE", "DATA PLANES", "SOAK", "TIMEOUT", "HEALTHY AT LEAST")
    for number, wave in enumerate(policy.waves, start=1):
        add_row(table, str(number), _selected(wave), f"{wave.soak.seconds} s", _timeout(wave), _healthy(wave))
    if policy.waves[-1].WhichOneof("selector") is not None:
        add_row(table, str(len(policy.waves) + 1), "everyone else", "0 s", f"{TIMEOUT_DEFAULT_S} s", "100 %")
    limits, facts = policy.health_limits, Table.grid(padding=(0, 2))
    error_percent = limits.error_percent if limits.HasField("error_percent") else 1.0
    requests_min = limits.requests_min if limits.HasField("requests_min") else 100
    disconnected_s = limits.disconnected.seconds if limits.HasField("disconnected") else 60
    add_row(facts, "More in quarantine", str(limits.quarantined))
    add_row(facts, "More FAILED", str(limits.failed))
    add_row(facts, "More errors", f"{error_percent:g} percent points, of {requests_min} requests or more")
    add_row(facts, "Disconnected", f"{disconnected_s} s")
    add_row(facts, "Etag", policy.etag)
    return Group(table, section("A data plane is hurt by more than", facts))


def rollout_view(rollout: FleetRollout) -> RenderableType:
    """How far the rollout is, whom it waits for, and who was hurt."""
    facts = Table.grid(padding=(0, 2))
    add_row(facts, "State", styled(FleetRollout.State.Name(rollout.state).removeprefix("STATE_")))
    add_row(facts, "Everyone has", str(rollout.stable.revision))
    if rollout.HasField("target"):
        first = " (first those that a snapshot before has hurt)" if rollout.wave == 0 else ""
        add_row(facts, "Rolled out", str(rollout.target.revision))
        add_row(facts, "Wave", f"{rollout.wave} of {rollout.wave_count}{first}")
        add_row(facts, "Since", age(rollout.update_time))
        add_row(facts, "Data planes held", str(rollout.held_count))
    if rollout.reason:
        add_row(facts, "Reason", f"{rollout.reason}: {rollout.message}")
    if rollout.HasField("target") and rollout.newest_revision > rollout.target.revision:
        add_row(facts, "Waits", f"revision {rollout.newest_revision}, for the end of this rollout")
    if rollout.waiting_count:
        add_row(facts, "Waits for", _names(rollout.waiting_for, rollout.waiting_count))
    if rollout.excused:
        add_row(facts, "Goes on without", _names(rollout.excused, len(rollout.excused)))
    if not rollout.hurt:
        return facts
    table = new_table("DATA PLANE", "RESOURCE", "REASON", "MESSAGE")
    for harm in rollout.hurt:
        add_row(table, harm.data_plane.removeprefix("dataPlanes/"), harm.resource or "-", harm.reason, harm.message)
    return Group(facts, section("Hurt", or_none(table, "nobody")))


def _names(names: Sequence[str], count: int) -> str:
    text = ", ".join(name.removeprefix("dataPlanes/") for name in names)
    return text if count <= len(names) else f"{text} and {count - len(names)} more"


def _selected(wave: Wave) -> str:
    kind = wave.WhichOneof("selector")
    if kind == "percent":
        return f"{wave.percent} %"
    if kind == "labels":
        return ",".join(f"{key}={value}" for key, value in sorted(wave.labels.labels.items()))
    return "everyone else"


def _timeout(wave: Wave) -> str:
    return f"{wave.timeout.seconds if wave.HasField('timeout') else TIMEOUT_DEFAULT_S} s"


def _healthy(wave: Wave) -> str:
    return f"{wave.min_healthy_percent if wave.HasField('min_healthy_percent') else 100} %"
