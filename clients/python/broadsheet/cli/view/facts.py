"""The fields that models, adapters and routes have in common."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.table import Table

from broadsheet.cli.view.parts import add_row, age, moment
from broadsheet.types import Adapter, Model, Route


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
