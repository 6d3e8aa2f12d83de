"""Rows of models and their revisions, to domain objects and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, Select, select

from broadsheet.v1 import model_pb2, rollout_pb2
from controlplane.catalog import convert, domain
from controlplane.store.schema import model_revisions, models
from controlplane.store.times import from_us, from_us_or_null, to_us, to_us_or_null

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
        warm_until=from_us_or_null(row.warm_until_us),
        delete_time=from_us_or_null(row.delete_time_us),
        purge_time=from_us_or_null(row.purge_time_us),
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
        "warm_until_us": to_us_or_null(model.warm_until),
        "delete_time_us": to_us_or_null(model.delete_time),
        "purge_time_us": to_us_or_null(model.purge_time),
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
