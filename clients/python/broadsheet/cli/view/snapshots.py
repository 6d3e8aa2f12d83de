"""Snapshots and their entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table

from broadsheet.cli.view.parts import DIGEST_DIGITS, add_row, age, byte_size, new_table, section
from broadsheet.cli.view.results import to_json
from broadsheet.types import (
    AdapterEntry,
    AdapterRevisionEntry,
    ApiKeyEntry,
    FetchSnapshotResponse,
    ModelEntry,
    ModelRevisionEntry,
    RouteEntry,
    SnapshotSummary,
)
from protocol.snapshot_limits import SNAPSHOT_BYTES_MAX

_Content = ModelEntry | AdapterEntry | RouteEntry | ModelRevisionEntry | AdapterRevisionEntry | ApiKeyEntry

_ENTRIES: Mapping[str, type[_Content]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (ModelEntry, AdapterEntry, RouteEntry, ModelRevisionEntry, AdapterRevisionEntry, ApiKeyEntry)
}


def snapshots_table(snapshots: Iterable[SnapshotSummary]) -> RenderableType:
    """Snapshots, newest first."""
    table = new_table("REVISION", "DIGEST", "ENTRIES", "SIZE", "METHOD", "RESOURCE", "COMMITTED")
    for snapshot in snapshots:
        add_row(
            table,
            str(snapshot.position.revision),
            snapshot.position.digest.hex()[:DIGEST_DIGITS],
            str(snapshot.entry_count),
            _share(snapshot.size_bytes) if snapshot.HasField("size_bytes") else "?",
            snapshot.method or "-",
            snapshot.resource or "-",
            age(snapshot.create_time),
        )
    return table


def _share(size_bytes: int) -> str:
    """A size, and how much that is of what a snapshot may have."""
    return f"{byte_size(size_bytes)} ({size_bytes / SNAPSHOT_BYTES_MAX:.1%})"


def snapshot_view(snapshot: FetchSnapshotResponse) -> RenderableType:
    """A snapshot with its entries."""
    facts = Table.grid(padding=(0, 2))
    add_row(facts, "Revision", str(snapshot.position.revision))
    add_row(facts, "Digest", snapshot.position.digest.hex())
    add_row(facts, "Store", snapshot.position.store_uid)
    table = new_table("ENTRY", "SERVED NAME", "REVISION", "DIGEST", "BYTES")
    for entry in snapshot.entries:
        content = _content(entry.ref.type, entry.blob)
        add_row(
            table,
            entry.ref.name,
            _served_name(content) if content is not None else f"? ({entry.ref.type})",
            _number(content) if content is not None else "?",
            entry.ref.digest.hex()[:DIGEST_DIGITS],
            str(len(entry.blob)),
        )
    return Group(facts, section(f"{snapshot.entry_count} entries", table))


def snapshot_json(snapshot: FetchSnapshotResponse) -> dict[str, object]:
    """A snapshot as JSON, with its entries decoded."""
    result = to_json(snapshot)
    result.pop("next_page_token", None)
    contents = [(entry, _content(entry.ref.type, entry.blob)) for entry in snapshot.entries]
    result["entries"] = [
        {"ref": to_json(entry.ref), "content": to_json(content) if content is not None else None}
        for entry, content in contents
    ]
    return result


def _served_name(content: _Content) -> str:
    """Revisions and keys have none: a pinned revision is served under the name of its route."""
    if isinstance(content, ModelRevisionEntry | AdapterRevisionEntry | ApiKeyEntry):
        return "-"
    return content.served_name


def _number(content: _Content) -> str:
    return "-" if isinstance(content, ApiKeyEntry) else str(content.revision.number)


def _content(type_: str, blob: bytes) -> _Content | None:
    """The message in a blob. None: this release does not know the type."""
    return _ENTRIES[type_].FromString(blob) if type_ in _ENTRIES else None
