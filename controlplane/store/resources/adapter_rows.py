"""Rows of adapters and their revisions, to domain objects and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, Select, select

from broadsheet.v1 import adapter_pb2, model_pb2
from controlplane.catalog import domain
from controlplane.store.schema import adapter_revisions, adapters
from controlplane.store.times import from_us, from_us_or_null, to_us, to_us_or_null

# Two tables of a join have columns of the same name: those of the revision are labelled.

SELECT_ADAPTERS: Select[Any] = select(
    adapters,
    adapter_revisions.c.source,
    adapter_revisions.c.weights,
    adapter_revisions.c.card,
    adapter_revisions.c.create_time_us.label("revision_create_time_us"),
    adapter_revisions.c.catalog_revision.label("revision_catalog_revision"),
).join(
    adapter_revisions,
    (adapter_revisions.c.model_id == adapters.c.model_id)
    & (adapter_revisions.c.adapter_id == adapters.c.id)
    & (adapter_revisions.c.number == adapters.c.revision_number),
)
"""Adapters with their current revision."""


def adapter(row: Row[Any]) -> domain.Adapter:
    """A row of SELECT_ADAPTERS."""
    return domain.Adapter(
        model_id=row.model_id,
        id=row.id,
        uid=row.uid,
        served_name=row.served_name,
        labels=row.labels,
        revision=domain.AdapterRevision(
            number=row.revision_number,
            source=model_pb2.Source.FromString(row.source),
            weights=adapter_pb2.AdapterWeights.FromString(row.weights),
            card=adapter_pb2.AdapterCard.FromString(row.card),
            create_time=from_us(row.revision_create_time_us),
            catalog_revision=row.revision_catalog_revision,
        ),
        create_time=from_us(row.create_time_us),
        update_time=from_us(row.update_time_us),
        catalog_revision=row.catalog_revision,
        delete_time=from_us_or_null(row.delete_time_us),
        purge_time=from_us_or_null(row.purge_time_us),
    )


def adapter_revision(row: Row[Any]) -> domain.AdapterRevision:
    """A row of adapter_revisions."""
    return domain.AdapterRevision(
        number=row.number,
        source=model_pb2.Source.FromString(row.source),
        weights=adapter_pb2.AdapterWeights.FromString(row.weights),
        card=adapter_pb2.AdapterCard.FromString(row.card),
        create_time=from_us(row.create_time_us),
        catalog_revision=row.catalog_revision,
    )


def adapter_values(adapter: domain.Adapter) -> Mapping[str, object]:
    """An adapter's row in `adapters`."""
    return {
        "model_id": adapter.model_id,
        "id": adapter.id,
        "uid": adapter.uid,
        "served_name": adapter.served_name,
        "labels": dict(adapter.labels),
        "revision_number": adapter.revision.number,
        "rank": adapter.revision.weights.rank,
        "create_time_us": to_us(adapter.create_time),
        "update_time_us": to_us(adapter.update_time),
        "catalog_revision": adapter.catalog_revision,
        "delete_time_us": to_us_or_null(adapter.delete_time),
        "purge_time_us": to_us_or_null(adapter.purge_time),
    }


def adapter_revision_values(adapter: domain.Adapter) -> Mapping[str, object]:
    """A row of adapter_revisions for the adapter's current revision."""
    return {
        "model_id": adapter.model_id,
        "adapter_id": adapter.id,
        "number": adapter.revision.number,
        "source": adapter.revision.source.SerializeToString(deterministic=True),
        "weights": adapter.revision.weights.SerializeToString(deterministic=True),
        "card": adapter.revision.card.SerializeToString(deterministic=True),
        "create_time_us": to_us(adapter.revision.create_time),
        "catalog_revision": adapter.revision.catalog_revision,
    }
