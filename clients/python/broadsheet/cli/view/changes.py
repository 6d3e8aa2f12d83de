"""Changes of resources for people: `~ models/m`, then `spec.scaling.max_replicas: 1 -> 4`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from google.protobuf.json_format import MessageToDict
from rich.text import Text

from broadsheet.types import FieldChange, ResourceChange

VALUE_CHARACTERS_MAX = 80
"""Limit of one value; a card's description may be a page long. The JSON has all of it."""

_BOOKKEEPING = frozenset(
    {"catalog_revision", "create_time", "etag", "revision.catalog_revision", "revision.create_time", "revision.name"}
)
"""Fields that every change alters, or that only place it in the history. People do not see them."""

_SHORT = (("revision.number", "revision"), ("revision.spec.", "spec."), ("revision.", ""))
"""Prefixes of paths, and what is shown for them."""

_SIGNS = {
    ResourceChange.KIND_ADDED: ("+", "green"),
    ResourceChange.KIND_REMOVED: ("-", "red"),
    ResourceChange.KIND_CHANGED: ("~", "yellow"),
}


def change_lines(changes: Iterable[ResourceChange]) -> list[Text]:
    """All changes, each with its fields below it."""
    return [line for change in changes for line in _lines(change)]


def summary(changes: Sequence[ResourceChange], change_count: int) -> Text:
    """For a cell of a table: the fields of a single change, or the resources of several."""
    if len(changes) == 1 and change_count == 1:
        fields = field_lines(changes[0])
        if changes[0].kind == ResourceChange.KIND_CHANGED and fields:
            return Text("\n").join(fields)
    lines = [_headline(change) for change in changes[:_SUMMARY_RESOURCES_MAX]]
    if change_count > len(lines):
        lines.append(Text(f"… and {change_count - len(lines)} more", style="dim"))
    return Text("\n").join(lines)


_SUMMARY_RESOURCES_MAX = 5


def counted(changes: Sequence[ResourceChange]) -> str:
    """`1 added, 2 changed`."""
    kinds = (
        (ResourceChange.KIND_ADDED, "added"),
        (ResourceChange.KIND_REMOVED, "removed"),
        (ResourceChange.KIND_CHANGED, "changed"),
    )
    counts = [(sum(change.kind == kind for change in changes), word) for kind, word in kinds]
    return ", ".join(f"{count} {word}" for count, word in counts if count)


def field_lines(change: ResourceChange) -> list[Text]:
    """The fields of a change that people see, one per line."""
    return [field_line(_short(field.path), *_sides(field)) for field in change.fields if field.path not in _BOOKKEEPING]


def field_line(path: str, before: str, after: str) -> Text:
    """`path: before -> after`."""
    return Text.assemble(f"{path}: ", (before, "red"), " -> ", (after, "green"))


def shown(value: object) -> str:
    """A JSON value in one line."""
    text = value if isinstance(value, str) and value else json.dumps(_whole(value), ensure_ascii=False)
    line = text.replace("\n", "⏎")
    return line if len(line) <= VALUE_CHARACTERS_MAX else f"{line[:VALUE_CHARACTERS_MAX]}…"


UNSET = "(unset)"


def _lines(change: ResourceChange) -> list[Text]:
    lines = [_headline(change)]
    if change.kind == ResourceChange.KIND_CHANGED:
        lines += [Text("    ").append_text(line) for line in field_lines(change)]
    if change.omitted:
        lines.append(Text("    too large to be shown; see broadsheet snapshot diff", style="dim"))
    return lines


def _headline(change: ResourceChange) -> Text:
    sign, style = _SIGNS.get(change.kind, ("?", ""))
    return Text(f"{sign} {change.name}", style=style)


def _short(path: str) -> str:
    for long, short in _SHORT:
        if path.startswith(long):
            return short + path.removeprefix(long)
    return path


def _sides(field: FieldChange) -> tuple[str, str]:
    before = shown(MessageToDict(field.before)) if field.HasField("before") else UNSET
    after = shown(MessageToDict(field.after)) if field.HasField("after") else UNSET
    return before, after


def _whole(value: object) -> object:
    """Numbers are doubles on the wire: 2048.0 is shown as 2048."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
