"""Parts of tables and views: cells, rows, sections, times, sizes."""

from __future__ import annotations

from datetime import UTC, datetime

import yaml
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from broadsheet.cli.view.results import to_json
from broadsheet.types import Adapter, Model, Route

DIGEST_DIGITS = 8
"""Hex digits of a digest in a table. The JSON has all of them."""

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
    "never": "yellow",
}


def length(seconds: float) -> str:
    """A length of time in seconds, in its largest unit that is not zero."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{max(0, int(seconds))} s"


def ago(seconds: float) -> str:
    """The same of a time that has passed since."""
    return f"{length(seconds)} ago"


def moment(timestamp: Timestamp) -> str:
    """A time for people, in UTC."""
    return f"{timestamp.ToDatetime().isoformat(sep=' ', timespec='seconds')} UTC"


def age(timestamp: Timestamp) -> str:
    """How long ago a time was; `-` for a time that is not set."""
    if timestamp.seconds == 0 and timestamp.nanos == 0:
        return "-"
    return ago((datetime.now(UTC) - timestamp.ToDatetime(tzinfo=UTC)).total_seconds())


def section(title: str, content: RenderableType) -> RenderableType:
    """A titled, indented part of a view."""
    return Group(Text(f"\n{title}", style="bold"), Padding(content, (0, 0, 0, 2), expand=False))


def _without_empty(value: object) -> object:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item not in ("", "0", [], {})}


def plain_yaml(message: Message) -> Text:
    """A message as YAML, without the fields that are empty."""
    fields = _without_empty(to_json(message))
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=False) if fields else "-"
    return Text(text.rstrip())


def add_row(table: Table, *cells: str | Text) -> None:
    """Add a row. Text is not markup: an engine's message may hold brackets, such as `[rank0]`."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def new_table(*columns: str) -> Table:
    """An empty table with these columns."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def or_none(table: Table, otherwise: str) -> RenderableType:
    """The table, or a text if it has no rows."""
    return table if table.row_count else Text(otherwise, style="dim")


def styled(name: str) -> Text:
    """The name of a state in its colour."""
    return Text(name, style=_STYLES.get(name, ""))


def byte_size(count: int) -> str:
    """A number of bytes in its largest decimal unit."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def facts_of(resource: Model | Adapter | Route, revision: str) -> Table:
    """The fields that all three have, as a grid.

    Args:
        resource: A model, adapter or route.
        revision: What to show of its current revision.
    """
    facts = Table.grid(padding=(0, 2))
    add_row(facts, "Name", resource.name)
    add_row(facts, "Served name", resource.served_name)
    add_row(facts, "Revision", revision)
    add_row(facts, "Catalog revision", str(resource.catalog_revision))
    add_row(facts, "Created", age(resource.create_time))
    add_row(facts, "Updated", age(resource.update_time))
    add_row(facts, "Labels", ", ".join(f"{key}={resource.labels[key]}" for key in sorted(resource.labels)) or "-")
    add_row(facts, "Uid", resource.uid)
    if not isinstance(resource, Route):
        add_row(facts, "Etag", resource.etag)
        if resource.HasField("delete_time"):
            until = moment(resource.purge_time)
            add_row(facts, "Deleted", f"{age(resource.delete_time)}; can be undeleted until {until}")
    if isinstance(resource, Model) and resource.warm_until.ToDatetime(tzinfo=UTC) > datetime.now(UTC):
        add_row(facts, "Warm until", moment(resource.warm_until))
    return facts
