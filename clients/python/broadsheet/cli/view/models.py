"""Models, their revisions, rollouts and cold starts."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from broadsheet.cli.view.parts import add_row, age, facts_of, new_table, or_none, plain_yaml, section, styled
from broadsheet.cli.view.states import state_of, statuses_table
from broadsheet.types import ColdStart, DataPlaneResourceStatus, Engine, Model, ModelRevision, Rollout


def models_table(models: Iterable[Model]) -> RenderableType:
    """Models, one per line."""
    table = new_table("MODEL", "SERVED NAME", "REVISION", "STATE", "ENGINE", "REPLICAS", "SOURCE", "UPDATED")
    for model in models:
        spec = model.revision.spec
        add_row(
            table,
            model.name.removeprefix("models/"),
            model.served_name,
            str(model.revision.number),
            state_of(model),
            Engine.Kind.Name(spec.engine.kind).removeprefix("KIND_"),
            f"{spec.scaling.min_replicas}–{spec.scaling.max_replicas}",
            spec.source.uri or "-",
            age(model.update_time),
        )
    return or_none(table, "no models; register one: broadsheet model register ID --source DIR_OR_URI")


def model_view(model: Model) -> RenderableType:
    """Everything about one model."""
    revision = model.revision
    facts = facts_of(model, f"{revision.number}, registered {age(revision.create_time)}")
    return Group(
        facts,
        *([section("Rollout", rollout_view(model))] if model.HasField("rollout") else []),
        section("Spec", plain_yaml(revision.spec)),
        section("Card", plain_yaml(revision.card)),
        section("Data planes", statuses_table(model.statuses)),
        *_cold_starts_section(model.statuses),
    )


def _cold_starts_section(statuses: Iterable[DataPlaneResourceStatus]) -> list[RenderableType]:
    """How long the latest start from zero took on each data plane that had one."""
    table = new_table("DATA PLANE", "FIRST TOKEN", "REPLICA", "ENGINE", "WEIGHTS", "READY")
    for item in statuses:
        if item.status.HasField("cold_start"):
            cold_start = item.status.cold_start
            parts = ("first_token", "start", "engine_start", "weights_load")
            seconds = (_seconds(cold_start, part) for part in parts)
            add_row(table, item.data_plane.removeprefix("dataPlanes/"), *seconds, age(cold_start.ready_time))
    return [section("Latest start from zero", table)] if table.row_count else []


def _seconds(cold_start: ColdStart, field: str) -> str:
    if not cold_start.HasField(field):  # type: ignore[arg-type]  # one of the names above
        return "-"
    duration: Duration = getattr(cold_start, field)
    return f"{duration.ToTimedelta().total_seconds():.1f} s"


def rollout_view(model: Model) -> RenderableType:
    """The rollout of a model's newest revision."""
    if not model.HasField("rollout"):
        return Text(f"{model.name} revision {model.revision.number} was put in place at once", style="dim")
    rollout = model.rollout
    facts = Table.grid(padding=(0, 2))
    add_row(facts, "State", styled(Rollout.State.Name(rollout.state).removeprefix("STATE_")))
    add_row(facts, "Revision", f"{rollout.revision_number}, over {rollout.stable_number}")
    add_row(facts, "Step", f"{rollout.step} of {rollout.step_count}")
    add_row(facts, "Share", f"{rollout.percent} %")
    if rollout.reason:
        add_row(facts, "Reason", f"{rollout.reason}: {rollout.message}")
    add_row(facts, "Began", age(rollout.create_time))
    add_row(facts, "Since", age(rollout.update_time))
    return facts


def revisions_table(revisions: Iterable[ModelRevision], current: int) -> RenderableType:
    """Revisions of a model, newest first."""
    table = new_table("REVISION", "", "ENGINE", "SOURCE", "CATALOG REVISION", "REGISTERED")
    for revision in revisions:
        add_row(
            table,
            str(revision.number),
            "current" if revision.number == current else "",
            Engine.Kind.Name(revision.spec.engine.kind).removeprefix("KIND_"),
            revision.spec.source.uri or "-",
            str(revision.catalog_revision),
            age(revision.create_time),
        )
    return table
