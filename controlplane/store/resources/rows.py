"""Rows to domain objects and back, and the queries that reading and writing share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from broadsheet.v1 import adapter_pb2, model_pb2, rollout_pb2, snapshot_pb2, snapshot_service_pb2
from controlplane.catalog import convert, domain
from controlplane.store.schema import adapter_revisions, adapters, model_revisions, models

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """The inverse of `to_us`, in UTC."""
    return _EPOCH + microseconds * _MICROSECOND


# Two tables of a join have columns of the same name: those of the revision are labelled.

SELECT_MODELS: Select[Any] = select(
    models,
    model_revisions.c.spec,
    model_revisions.c.card,
    model_revisions.c.create_time_us.label("revision_create_time_us"),
    model_revisions.c.catalog_revision.label("revision_catalog_revision"),
).join(
    model_revisions,
    (model_revisions.c.model_id == models.c.id) & (model_revisions.c.number == models.c.revision_number),
)
"""Models with their current revision."""

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


async def find_model(connection: AsyncConnection, model_id: str) -> domain.Model | None:
    """The model of this id, if there is one. A deleted one is none."""
    found = await find_any_model(connection, model_id)
    return found if found is not None and found.delete_time is None else None


async def find_adapter(connection: AsyncConnection, model_id: str, adapter_id: str) -> domain.Adapter | None:
    """The adapter of this model and id, if there is one. A deleted one is none."""
    found = await find_any_adapter(connection, model_id, adapter_id)
    return found if found is not None and found.delete_time is None else None


async def find_any_model(connection: AsyncConnection, model_id: str) -> domain.Model | None:
    """The model of this id, if its row is there: a deleted one too, and one that is to be
    purged."""
    row = (await connection.execute(SELECT_MODELS.where(models.c.id == model_id))).one_or_none()
    return model(row) if row is not None else None


async def find_any_adapter(connection: AsyncConnection, model_id: str, adapter_id: str) -> domain.Adapter | None:
    """The adapter of this model and id, if its row is there: a deleted one too, and one that is to
    be purged."""
    query = SELECT_ADAPTERS.where(adapters.c.model_id == model_id, adapters.c.id == adapter_id)
    row = (await connection.execute(query)).one_or_none()
    return adapter(row) if row is not None else None


def visible(table: Table, now: datetime, *, show_deleted: bool) -> ColumnElement[bool]:
    """Which rows of `models` or `adapters` a reader sees at `now`."""
    if not show_deleted:
        return table.c.delete_time_us.is_(None)
    return table.c.purge_time_us.is_(None) | (table.c.purge_time_us > to_us(now))


def model(row: Row[Any]) -> domain.Model:
    """A row of SELECT_MODELS."""
    return domain.Model(
        id=row.id,
        uid=row.uid,
        served_name=row.served_name,
        labels=row.labels,
        revision=domain.ModelRevision(
            number=row.revision_number,
            spec=model_pb2.ModelSpec.FromString(row.spec),
            card=model_pb2.ModelCard.FromString(row.card),
            create_time=from_us(row.revision_create_time_us),
            catalog_revision=row.revision_catalog_revision,
        ),
        create_time=from_us(row.create_time_us),
        update_time=from_us(row.update_time_us),
        catalog_revision=row.catalog_revision,
        rollout_policy=_rollout_policy(row.rollout_policy),
        rollout=rollout_pb2.Rollout.FromString(row.rollout) if row.rollout is not None else None,
        stable=_stable(row.stable_revision),
        warm_until=_moment(row.warm_until_us),
        delete_time=_moment(row.delete_time_us),
        purge_time=_moment(row.purge_time_us),
    )


def model_revision(row: Row[Any]) -> domain.ModelRevision:
    """A row of model_revisions."""
    return domain.ModelRevision(
        number=row.number,
        spec=model_pb2.ModelSpec.FromString(row.spec),
        card=model_pb2.ModelCard.FromString(row.card),
        create_time=from_us(row.create_time_us),
        catalog_revision=row.catalog_revision,
    )


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
        delete_time=_moment(row.delete_time_us),
        purge_time=_moment(row.purge_time_us),
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


def model_values(model: domain.Model) -> Mapping[str, object]:
    """A model's row in `models`."""
    return {
        "id": model.id,
        "uid": model.uid,
        "served_name": model.served_name,
        "labels": dict(model.labels),
        "revision_number": model.revision.number,
        "create_time_us": to_us(model.create_time),
        "update_time_us": to_us(model.update_time),
        "catalog_revision": model.catalog_revision,
        "rollout_policy": model.rollout_policy.SerializeToString(deterministic=True),
        "rollout": model.rollout.SerializeToString(deterministic=True) if model.rollout is not None else None,
        "stable_revision": _stable_bytes(model),
        "warm_until_us": _us(model.warm_until),
        "delete_time_us": _us(model.delete_time),
        "purge_time_us": _us(model.purge_time),
    }


def model_revision_values(model: domain.Model) -> Mapping[str, object]:
    """A row of model_revisions for the model's current revision."""
    return {
        "model_id": model.id,
        "number": model.revision.number,
        "spec": model.revision.spec.SerializeToString(deterministic=True),
        "card": model.revision.card.SerializeToString(deterministic=True),
        "create_time_us": to_us(model.revision.create_time),
        "catalog_revision": model.revision.catalog_revision,
    }


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
        "delete_time_us": _us(adapter.delete_time),
        "purge_time_us": _us(adapter.purge_time),
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


def data_plane(row: Row[Any]) -> domain.DataPlaneRecord:
    """A row of data_planes."""
    return domain.DataPlaneRecord(
        id=row.id,
        instance_uid=row.instance_uid,
        serving=_position(row.serving),
        target=_position(row.target),
        phase=snapshot_service_pb2.Phase.ValueType(row.phase),
        reason=row.reason,
        message=row.message,
        http_address=row.http_address,
        software_version=row.software_version,
        connect_time=from_us(row.connect_time_us),
        last_seen_time=from_us(row.last_seen_time_us),
    )


def data_plane_values(record: domain.DataPlaneRecord) -> Mapping[str, object]:
    """A data plane's row in `data_planes`."""
    return {
        "id": record.id,
        "instance_uid": record.instance_uid,
        "serving": _position_bytes(record.serving),
        "target": _position_bytes(record.target),
        "phase": int(record.phase),
        "reason": record.reason,
        "message": record.message,
        "http_address": record.http_address,
        "software_version": record.software_version,
        "connect_time_us": to_us(record.connect_time),
        "last_seen_time_us": to_us(record.last_seen_time),
    }


def _moment(microseconds: int | None) -> datetime | None:
    return from_us(microseconds) if microseconds is not None else None


def _us(moment: datetime | None) -> int | None:
    return to_us(moment) if moment is not None else None


def _position(serialised: bytes | None) -> domain.Position | None:
    return convert.position_from_proto(snapshot_pb2.Position.FromString(serialised)) if serialised is not None else None


def _position_bytes(position: domain.Position | None) -> bytes | None:
    return convert.position_to_proto(position).SerializeToString() if position is not None else None


def _rollout_policy(serialised: bytes | None) -> rollout_pb2.RolloutPolicy:
    return rollout_pb2.RolloutPolicy.FromString(serialised) if serialised is not None else domain.REPLACE


def _stable(serialised: bytes | None) -> domain.ModelRevision | None:
    if serialised is None:
        return None
    return convert.model_revision_from_proto(model_pb2.ModelRevision.FromString(serialised))


def _stable_bytes(model: domain.Model) -> bytes | None:
    if model.stable is None:
        return None
    return convert.model_revision_to_proto(model.id, model.stable).SerializeToString(deterministic=True)
