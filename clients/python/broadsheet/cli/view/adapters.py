"""Adapters and their revisions."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType

from broadsheet.cli.view.parts import (
    DIGEST_DIGITS,
    add_row,
    age,
    byte_size,
    facts_of,
    new_table,
    or_none,
    plain_yaml,
    section,
)
from broadsheet.cli.view.states import state_of, statuses_table
from broadsheet.types import Adapter, AdapterRevision


def adapters_table(adapters: Iterable[Adapter]) -> RenderableType:
    """Adapters, one per line."""
    table = new_table("ADAPTER", "SERVED NAME", "REVISION", "STATE", "RANK", "SIZE", "DIGEST", "UPDATED")
    for adapter in adapters:
        weights = adapter.revision.weights
        add_row(
            table,
            adapter.name.removeprefix("models/").replace("/adapters/", "/"),
            adapter.served_name,
            str(adapter.revision.number),
            state_of(adapter),
            str(weights.rank),
            byte_size(weights.size_bytes),
            weights.digest.hex()[:DIGEST_DIGITS],
            age(adapter.update_time),
        )
    return or_none(table, "no adapters; register one: broadsheet adapter register MODEL ID --source DIR")


def adapter_view(adapter: Adapter) -> RenderableType:
    """Everything about one adapter."""
    revision, weights = adapter.revision, adapter.revision.weights
    files = new_table("FILE", "SIZE", "SHA-256")
    for file in weights.files:
        add_row(files, file.path, byte_size(file.size_bytes), file.sha256.hex()[:DIGEST_DIGITS])
    facts = facts_of(adapter, f"{revision.number}, registered {age(revision.create_time)}")
    add_row(facts, "Source", revision.source.uri)
    add_row(facts, "Digest", weights.digest.hex())
    add_row(facts, "Rank", f"{weights.rank} on {', '.join(weights.target_modules)}")
    return Group(
        facts,
        section("Files", files),
        section("Card", plain_yaml(revision.card)),
        section("Data planes", statuses_table(adapter.statuses)),
    )


def adapter_revisions_table(revisions: Iterable[AdapterRevision], current: int) -> RenderableType:
    """Revisions of an adapter, newest first."""
    table = new_table("REVISION", "", "RANK", "DIGEST", "SOURCE", "CATALOG REVISION", "REGISTERED")
    for revision in revisions:
        add_row(
            table,
            str(revision.number),
            "current" if revision.number == current else "",
            str(revision.weights.rank),
            revision.weights.digest.hex()[:12],
            revision.source.uri,
            str(revision.catalog_revision),
            age(revision.create_time),
        )
    return table
