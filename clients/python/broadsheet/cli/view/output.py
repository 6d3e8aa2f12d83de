"""Results on the screen: tables for people, JSON and YAML for programs. Nothing here asks the
control plane anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from broadsheet.cli.session import Output, Session
from broadsheet.types import (
    Adapter,
    AdapterEntry,
    AdapterRevision,
    AdapterRevisionEntry,
    ApiKeyEntry,
    ColdStart,
    DataPlane,
    DataPlaneOutcome,
    DataPlaneResourceStatus,
    Engine,
    FetchSnapshotResponse,
    Model,
    ModelEntry,
    ModelRevision,
    ModelRevisionEntry,
    Phase,
    Position,
    ResourceState,
    Rollout,
    Route,
    RouteEntry,
    RouteFallback,
    RouteRevision,
    RouteSpec,
    SnapshotSummary,
)

DIGEST_DIGITS = 8
"""Hex digits of a digest in a table. The whole is in the JSON."""

_Content = ModelEntry | AdapterEntry | RouteEntry | ModelRevisionEntry | AdapterRevisionEntry | ApiKeyEntry

_ENTRIES: Mapping[str, type[_Content]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (ModelEntry, AdapterEntry, RouteEntry, ModelRevisionEntry, AdapterRevisionEntry, ApiKeyEntry)
}

_STYLES = {
    "READY": "green",
    "IDLE": "cyan",
    "DEPLOYING": "yellow",
    "DRAINING": "yellow",
    "DEGRADED": "dark_orange",
    "FAILED": "bold red",
    "QUARANTINED": "bold red",
    "ACTIVE": "green",
    "ACTIVE_WITH_ERRORS": "dark_orange",
    "RECEIVED": "yellow",
    "PREPARED": "yellow",
    "RUNNING": "yellow",
    "PAUSED": "dark_orange",
    "COMPLETE": "green",
    "REVERTED": "bold red",
    "PENDING": "yellow",
    "REJECTED": "bold red",
    "MISSING": "bold red",
    "connected": "green",
    "gone": "bold red",
}


def show(session: Session, result: object, table: RenderableType) -> None:
    """Print a result: `table` for people, else `result`, which is a JSON value."""
    if session.output is Output.TABLE:
        session.stdout.print(Text(table) if isinstance(table, str) else table)
    elif session.output is Output.JSON:
        session.stdout.file.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    else:
        yaml.safe_dump(result, session.stdout.file, sort_keys=False, allow_unicode=True)


def to_json(message: Message) -> dict[str, object]:
    """Proto's JSON form, with the field names of the protos, and fields that are at their
    default."""
    fields = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: _whole_numbers(value) for name, value in fields.items()}


def to_list(name: str, messages: Iterable[Message]) -> dict[str, object]:
    """The JSON of a list: an object with one field, like the API's own List responses."""
    return {name: [to_json(message) for message in messages]}


# --- models and adapters --------------------------------------------------------------------------


def models_table(models: Iterable[Model]) -> RenderableType:
    """Models, one a line."""
    table = _table("MODEL", "SERVED NAME", "REVISION", "STATE", "ENGINE", "REPLICAS", "SOURCE", "UPDATED")
    for model in models:
        spec = model.revision.spec
        _row(
            table,
            model.name.removeprefix("models/"),
            model.served_name,
            str(model.revision.number),
            _state_of(model),
            Engine.Kind.Name(spec.engine.kind).removeprefix("KIND_"),
            f"{spec.scaling.min_replicas}–{spec.scaling.max_replicas}",
            spec.source.uri or "-",
            _ago(model.update_time),
        )
    return _or_none(table, "no models; register one: broadsheet model register ID --source DIR_OR_URI")


def model_view(model: Model) -> RenderableType:
    """Everything about one model."""
    revision = model.revision
    facts = _facts(model, f"{revision.number}, registered {_ago(revision.create_time)}")
    return Group(
        facts,
        *([_section("Rollout", rollout_view(model))] if model.HasField("rollout") else []),
        _section("Spec", _plain_yaml(revision.spec)),
        _section("Card", _plain_yaml(revision.card)),
        _section("Data planes", statuses_table(model.statuses)),
        *_cold_starts_section(model.statuses),
    )


def _cold_starts_section(statuses: Iterable[DataPlaneResourceStatus]) -> list[RenderableType]:
    """How long the latest start from zero took, where there was one."""
    table = _table("DATA PLANE", "FIRST TOKEN", "REPLICA", "ENGINE", "WEIGHTS", "READY")
    for item in statuses:
        if item.status.HasField("cold_start"):
            cold_start = item.status.cold_start
            parts = ("first_token", "start", "engine_start", "weights_load")
            seconds = (_seconds(cold_start, part) for part in parts)
            _row(table, item.data_plane.removeprefix("dataPlanes/"), *seconds, _ago(cold_start.ready_time))
    return [_section("Latest start from zero", table)] if table.row_count else []


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
    _row(facts, "State", _styled(Rollout.State.Name(rollout.state).removeprefix("STATE_")))
    _row(facts, "Revision", f"{rollout.revision_number}, over {rollout.stable_number}")
    _row(facts, "Step", f"{rollout.step} of {rollout.step_count}")
    _row(facts, "Share", f"{rollout.percent} %")
    if rollout.reason:
        _row(facts, "Reason", f"{rollout.reason}: {rollout.message}")
    _row(facts, "Began", _ago(rollout.create_time))
    _row(facts, "Since", _ago(rollout.update_time))
    return facts


def revisions_table(revisions: Iterable[ModelRevision], current: int) -> RenderableType:
    """Revisions of a model, newest first."""
    table = _table("REVISION", "", "ENGINE", "SOURCE", "CATALOG REVISION", "REGISTERED")
    for revision in revisions:
        _row(
            table,
            str(revision.number),
            "current" if revision.number == current else "",
            Engine.Kind.Name(revision.spec.engine.kind).removeprefix("KIND_"),
            revision.spec.source.uri or "-",
            str(revision.catalog_revision),
            _ago(revision.create_time),
        )
    return table


def adapter_revisions_table(revisions: Iterable[AdapterRevision], current: int) -> RenderableType:
    """Revisions of an adapter, newest first."""
    table = _table("REVISION", "", "RANK", "DIGEST", "SOURCE", "CATALOG REVISION", "REGISTERED")
    for revision in revisions:
        _row(
            table,
            str(revision.number),
            "current" if revision.number == current else "",
            str(revision.weights.rank),
            revision.weights.digest.hex()[:12],
            revision.source.uri,
            str(revision.catalog_revision),
            _ago(revision.create_time),
        )
    return table


def adapters_table(adapters: Iterable[Adapter]) -> RenderableType:
    """Adapters, one a line."""
    table = _table("ADAPTER", "SERVED NAME", "REVISION", "STATE", "RANK", "SIZE", "DIGEST", "UPDATED")
    for adapter in adapters:
        weights = adapter.revision.weights
        _row(
            table,
            adapter.name.removeprefix("models/").replace("/adapters/", "/"),
            adapter.served_name,
            str(adapter.revision.number),
            _state_of(adapter),
            str(weights.rank),
            _bytes(weights.size_bytes),
            weights.digest.hex()[:DIGEST_DIGITS],
            _ago(adapter.update_time),
        )
    return _or_none(table, "no adapters; register one: broadsheet adapter register MODEL ID --source DIR")


def adapter_view(adapter: Adapter) -> RenderableType:
    """Everything about one adapter."""
    revision, weights = adapter.revision, adapter.revision.weights
    files = _table("FILE", "SIZE", "SHA-256")
    for file in weights.files:
        _row(files, file.path, _bytes(file.size_bytes), file.sha256.hex()[:DIGEST_DIGITS])
    facts = _facts(adapter, f"{revision.number}, registered {_ago(revision.create_time)}")
    _row(facts, "Source", revision.source.uri)
    _row(facts, "Digest", weights.digest.hex())
    _row(facts, "Rank", f"{weights.rank} on {', '.join(weights.target_modules)}")
    return Group(
        facts,
        _section("Files", files),
        _section("Card", _plain_yaml(revision.card)),
        _section("Data planes", statuses_table(adapter.statuses)),
    )


def statuses_table(statuses: Iterable[DataPlaneResourceStatus]) -> RenderableType:
    """What each data plane made of a resource."""
    table = _table("DATA PLANE", "STATE", "REVISION", "REPLICAS", "SINCE", "REASON", "MESSAGE")
    for item in statuses:
        status = item.status
        name = item.data_plane.removeprefix("dataPlanes/")
        _row(
            table,
            name if item.connected else f"{name} (gone)",
            state_text(status.state),
            str(status.revision_number),
            str(status.ready_replicas),
            _ago(status.update_time),
            status.reason,
            status.message,
        )
    return _or_none(table, "no data plane has reported it yet")


# --- routes ---------------------------------------------------------------------------------------


def routes_table(routes: Iterable[Route]) -> RenderableType:
    """Routes, one a line."""
    table = _table("ROUTE", "SERVED NAME", "REVISION", "TARGETS", "FALLBACKS", "STICKY BY", "UPDATED")
    for route in routes:
        spec = route.revision.spec
        _row(
            table,
            route.name.removeprefix("routes/"),
            route.served_name,
            str(route.revision.number),
            *_route_cells(spec),
            _ago(route.update_time),
        )
    return _or_none(table, "no routes; set one: broadsheet route set ID --target MODEL=WEIGHT")


def route_view(route: Route) -> RenderableType:
    """Everything about one route."""
    revision = route.revision
    facts = _facts(route, f"{revision.number}, set {_ago(revision.create_time)}")
    targets = _table("TARGET", "WEIGHT", "SHARE")
    total = sum(target.weight for target in revision.spec.targets)
    for target in revision.spec.targets:
        _row(targets, target.resource, str(target.weight), f"{100 * target.weight / max(1, total):.1f} %")
    fallbacks = _table("FALLBACK", "WHEN")
    for fallback in revision.spec.fallbacks:
        conditions = (RouteFallback.Condition.Name(one).removeprefix("CONDITION_") for one in fallback.conditions)
        _row(fallbacks, fallback.resource, ", ".join(conditions))
    _row(facts, "Sticky by", _sticky(revision.spec))
    return Group(facts, _section("Targets", targets), _section("Fallbacks, in order", _or_none(fallbacks, "none")))


def route_revisions_table(revisions: Iterable[RouteRevision], current: int) -> RenderableType:
    """Revisions of a route, newest first."""
    table = _table("REVISION", "", "TARGETS", "FALLBACKS", "STICKY BY", "CATALOG REVISION", "SET")
    for revision in revisions:
        _row(
            table,
            str(revision.number),
            "current" if revision.number == current else "",
            *_route_cells(revision.spec),
            str(revision.catalog_revision),
            _ago(revision.create_time),
        )
    return table


def _route_cells(spec: RouteSpec) -> tuple[str, str, str]:
    targets = ", ".join(f"{target.resource.removeprefix('models/')}={target.weight}" for target in spec.targets)
    fallbacks = ", ".join(fallback.resource.removeprefix("models/") for fallback in spec.fallbacks)
    return targets, fallbacks or "-", _sticky(spec)


def _sticky(spec: RouteSpec) -> str:
    kind = spec.sticky.WhichOneof("key")
    return "-" if kind is None else "user" if kind == "user" else f"header {spec.sticky.header}"


# --- snapshots ------------------------------------------------------------------------------------


def snapshots_table(snapshots: Iterable[SnapshotSummary]) -> RenderableType:
    """Snapshots, newest first."""
    table = _table("REVISION", "DIGEST", "ENTRIES", "METHOD", "RESOURCE", "COMMITTED")
    for snapshot in snapshots:
        _row(
            table,
            str(snapshot.position.revision),
            snapshot.position.digest.hex()[:DIGEST_DIGITS],
            str(snapshot.entry_count),
            snapshot.method or "-",
            snapshot.resource or "-",
            _ago(snapshot.create_time),
        )
    return table


def snapshot_view(snapshot: FetchSnapshotResponse) -> RenderableType:
    """A snapshot with its entries."""
    facts = Table.grid(padding=(0, 2))
    _row(facts, "Revision", str(snapshot.position.revision))
    _row(facts, "Digest", snapshot.position.digest.hex())
    _row(facts, "Store", snapshot.position.store_uid)
    table = _table("ENTRY", "SERVED NAME", "REVISION", "DIGEST", "BYTES")
    for entry in snapshot.entries:
        content = _content(entry.ref.type, entry.blob)
        _row(
            table,
            entry.ref.name,
            _served_name(content) if content is not None else f"? ({entry.ref.type})",
            _number(content) if content is not None else "?",
            entry.ref.digest.hex()[:DIGEST_DIGITS],
            str(len(entry.blob)),
        )
    return Group(facts, _section(f"{snapshot.entry_count} entries", table))


def snapshot_json(snapshot: FetchSnapshotResponse) -> dict[str, object]:
    """A snapshot whose entries are shown as what they are, not as bytes."""
    result = to_json(snapshot)
    result.pop("next_page_token", None)
    result["entries"] = [
        {"ref": to_json(entry.ref), "content": to_json(content) if content is not None else None}
        for entry in snapshot.entries
        for content in [_content(entry.ref.type, entry.blob)]
    ]
    return result


def _served_name(content: _Content) -> str:
    """Pinned revisions are asked for by the names of routes."""
    if isinstance(content, ModelRevisionEntry | AdapterRevisionEntry | ApiKeyEntry):
        return "-"
    return content.served_name


def _number(content: _Content) -> str:
    return "-" if isinstance(content, ApiKeyEntry) else str(content.revision.number)


def _content(type_: str, blob: bytes) -> _Content | None:
    """The message in a blob. None: of a type that this release does not know."""
    return _ENTRIES[type_].FromString(blob) if type_ in _ENTRIES else None


# --- the fleet ------------------------------------------------------------------------------------


def data_planes_table(data_planes: Iterable[DataPlane]) -> RenderableType:
    """Data planes, one a line."""
    table = _table("DATA PLANE", "STREAM", "SERVING", "TARGET", "PHASE", "HTTP", "LAST SEEN", "REASON")
    for plane in data_planes:
        _row(
            table,
            plane.name.removeprefix("dataPlanes/"),
            _styled("connected" if plane.connected else "gone"),
            _position(plane, "serving"),
            _position(plane, "target"),
            _styled(Phase.Name(plane.phase).removeprefix("PHASE_")),
            plane.http_address or "-",
            _ago(plane.last_seen_time),
            plane.reason,
        )
    return _or_none(table, "no data plane has ever connected; start one: broadsheet dataplane")


def data_plane_view(plane: DataPlane) -> RenderableType:
    """Everything about one data plane."""
    facts = Table.grid(padding=(0, 2))
    _row(facts, "Name", plane.name)
    _row(facts, "Stream", _styled("connected" if plane.connected else "gone"))
    _row(facts, "Serving", _position(plane, "serving"))
    _row(facts, "Target", _position(plane, "target"))
    _row(facts, "Phase", _styled(Phase.Name(plane.phase).removeprefix("PHASE_")))
    if plane.reason:
        _row(facts, "Reason", f"{plane.reason}: {plane.message}")
    _row(facts, "HTTP", plane.http_address or "-")
    _row(facts, "Release", plane.software_version or "-")
    _row(facts, "Connected", _ago(plane.connect_time))
    _row(facts, "Last seen", _ago(plane.last_seen_time))
    table = _table("RESOURCE", "STATE", "REVISION", "REPLICAS", "SINCE", "APPLICATION", "REASON", "MESSAGE")
    for status in plane.resources:
        _row(
            table,
            status.name,
            state_text(status.state),
            str(status.revision_number),
            str(status.ready_replicas),
            _ago(status.update_time),
            status.application or "-",
            status.reason,
            status.message,
        )
    return Group(facts, _section("Resources", _or_none(table, "none reported")))


def outcomes_table(outcomes: Iterable[DataPlaneOutcome]) -> RenderableType:
    """What each data plane did with a revision."""
    table = _table("DATA PLANE", "OUTCOME", "SERVING", "REASON", "MESSAGE")
    for item in outcomes:
        _row(
            table,
            item.data_plane.removeprefix("dataPlanes/"),
            _styled(DataPlaneOutcome.Outcome.Name(item.outcome).removeprefix("OUTCOME_")),
            _position(item, "serving"),
            item.reason,
            item.message,
        )
    return _or_none(table, "no data plane is known")


# --- parts ----------------------------------------------------------------------------------------


def state_text(state: int) -> Text:
    """A resource state in its colour."""
    name = ResourceState.Name(ResourceState.ValueType(state)).removeprefix("RESOURCE_STATE_")
    return _styled("-" if name == "UNSPECIFIED" else name)


def states_text(states: Sequence[int]) -> Text:
    """The states of a resource on several data planes: one word where they agree, else each with
    its count."""
    if not states:
        return Text("-")
    kinds = sorted(set(states))
    if len(kinds) == 1:
        return state_text(kinds[0])
    return Text(", ").join(state_text(kind).append(f" {states.count(kind)}") for kind in kinds)


def _state_of(resource: Model | Adapter) -> Text:
    """Its state on the data planes that are connected."""
    if resource.HasField("delete_time"):
        return Text("DELETED", style="dim")
    return states_text([item.status.state for item in resource.statuses if item.connected])


def ago(seconds: float) -> str:
    """A stretch of time, in the largest unit that is not zero."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def moment(timestamp: Timestamp) -> str:
    """A time as people write it."""
    return f"{timestamp.ToDatetime().isoformat(sep=' ', timespec='seconds')} UTC"


def _ago(timestamp: Timestamp) -> str:
    if timestamp.seconds == 0 and timestamp.nanos == 0:
        return "-"
    return ago((datetime.now(UTC) - timestamp.ToDatetime(tzinfo=UTC)).total_seconds())


def _position(message: DataPlane | DataPlaneOutcome, field: str) -> str:
    if not message.HasField(field):  # type: ignore[arg-type]  # one of the names above
        return "-"
    position: Position = getattr(message, field)
    return f"{position.revision} · {position.digest.hex()[:DIGEST_DIGITS]}"


def _facts(resource: Model | Adapter | Route, revision: str) -> Table:
    facts = Table.grid(padding=(0, 2))
    _row(facts, "Name", resource.name)
    _row(facts, "Served name", resource.served_name)
    _row(facts, "Revision", revision)
    _row(facts, "Catalog revision", str(resource.catalog_revision))
    _row(facts, "Created", _ago(resource.create_time))
    _row(facts, "Updated", _ago(resource.update_time))
    _row(facts, "Labels", ", ".join(f"{key}={resource.labels[key]}" for key in sorted(resource.labels)) or "-")
    _row(facts, "Uid", resource.uid)
    if not isinstance(resource, Route):
        _row(facts, "Etag", resource.etag)
        if resource.HasField("delete_time"):
            until = moment(resource.purge_time)
            _row(facts, "Deleted", f"{_ago(resource.delete_time)}; can be undeleted until {until}")
    if isinstance(resource, Model) and resource.warm_until.ToDatetime(tzinfo=UTC) > datetime.now(UTC):
        _row(facts, "Warm until", moment(resource.warm_until))
    return facts


def _section(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(f"\n{title}", style="bold"), Padding(content, (0, 0, 0, 2), expand=False))


def _whole_numbers(value: object) -> object:
    """Engine arguments are doubles on the wire; 2048 is to be shown as 2048."""
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_empty(value: object) -> object:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item not in ("", "0", [], {})}


def _plain_yaml(message: Message) -> Text:
    fields = _without_empty(to_json(message))
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=False) if fields else "-"
    return Text(text.rstrip())


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row. Text is shown as it is: rich would take the `[rank0]` of an engine's message for
    markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _or_none(table: Table, otherwise: str) -> RenderableType:
    return table if table.row_count else Text(otherwise, style="dim")


def _styled(name: str) -> Text:
    return Text(name, style=_STYLES.get(name, ""))


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
