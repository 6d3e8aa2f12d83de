"""Domain objects to protobuf messages and back. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from google.protobuf import message as protobuf_message
from google.protobuf import timestamp_pb2

from broadsheet.v1 import adapter_pb2, model_pb2, route_pb2, snapshot_pb2, snapshot_service_pb2, status_pb2
from controlplane.catalog import domain, etags
from controlplane.catalog.routes import Route, RouteRevision
from protocol import names

M = TypeVar("M", bound=protobuf_message.Message)


def known_fields(message: M) -> M:
    """A copy without the fields that this release does not know.

    They would be stored although nothing here gives them a meaning."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known


def position_to_proto(position: domain.Position) -> snapshot_pb2.Position:
    return snapshot_pb2.Position(store_uid=position.store_uid, revision=position.revision, digest=position.digest)


def position_from_proto(message: snapshot_pb2.Position) -> domain.Position:
    return domain.Position(store_uid=message.store_uid, revision=message.revision, digest=message.digest)


def entry_to_proto(entry: domain.Entry) -> snapshot_pb2.Entry:
    return snapshot_pb2.Entry(
        ref=snapshot_pb2.EntryRef(name=entry.name, type=entry.type, digest=entry.digest), blob=entry.blob
    )


def timestamp_to_proto(moment: datetime) -> timestamp_pb2.Timestamp:
    """`moment` (aware) as a protobuf timestamp."""
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


def timestamp_from_proto(message: timestamp_pb2.Timestamp) -> datetime:
    """The inverse of `timestamp_to_proto`: aware, UTC, to the microsecond."""
    return message.ToDatetime(tzinfo=UTC)


def optional_timestamp_to_proto(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    """`moment`, if there is one."""
    return timestamp_to_proto(moment) if moment is not None else None


def model_revision_to_proto(model_id: str, revision: domain.ModelRevision) -> model_pb2.ModelRevision:
    return model_pb2.ModelRevision(
        name=names.model_revision_name(model_id, revision.number),
        number=revision.number,
        spec=revision.spec,
        card=revision.card,
        create_time=timestamp_to_proto(revision.create_time),
        catalog_revision=revision.catalog_revision,
    )


def model_revision_from_proto(message: model_pb2.ModelRevision) -> domain.ModelRevision:
    return domain.ModelRevision(
        number=message.number,
        spec=message.spec,
        card=message.card,
        create_time=timestamp_from_proto(message.create_time),
        catalog_revision=message.catalog_revision,
    )


class ReportedStatus(Protocol):
    """What a data plane has reported about a resource, as `DataPlaneResourceStatus` has it."""

    @property
    def data_plane(self) -> str: ...

    @property
    def connected(self) -> bool: ...

    @property
    def status(self) -> status_pb2.ResourceStatus: ...


def _add_statuses(message: model_pb2.Model | adapter_pb2.Adapter, statuses: Iterable[ReportedStatus]) -> None:
    # A list of a large fleet has tens of thousands. Made in place, each takes half as long as one
    # that is made and then copied.
    add = message.statuses.add
    for reported in statuses:
        add(data_plane=reported.data_plane, connected=reported.connected, status=reported.status)


def model_to_proto(model: domain.Model, statuses: Iterable[ReportedStatus] = ()) -> model_pb2.Model:
    message = model_pb2.Model(
        name=model.name,
        uid=model.uid,
        served_name=model.served_name,
        labels=model.labels,
        revision=model_revision_to_proto(model.id, model.revision),
        create_time=timestamp_to_proto(model.create_time),
        update_time=timestamp_to_proto(model.update_time),
        catalog_revision=model.catalog_revision,
        etag=etags.etag_of(model),
        delete_time=optional_timestamp_to_proto(model.delete_time),
        purge_time=optional_timestamp_to_proto(model.purge_time),
        rollout_policy=model.rollout_policy,
        rollout=model.rollout,
        warm_until=optional_timestamp_to_proto(model.warm_until),
    )
    _add_statuses(message, statuses)
    return message


def adapter_revision_to_proto(
    model_id: str, adapter_id: str, revision: domain.AdapterRevision
) -> adapter_pb2.AdapterRevision:
    return adapter_pb2.AdapterRevision(
        name=names.adapter_revision_name(model_id, adapter_id, revision.number),
        number=revision.number,
        source=revision.source,
        weights=revision.weights,
        card=revision.card,
        create_time=timestamp_to_proto(revision.create_time),
        catalog_revision=revision.catalog_revision,
    )


def adapter_to_proto(adapter: domain.Adapter, statuses: Iterable[ReportedStatus] = ()) -> adapter_pb2.Adapter:
    message = adapter_pb2.Adapter(
        name=adapter.name,
        uid=adapter.uid,
        served_name=adapter.served_name,
        labels=adapter.labels,
        revision=adapter_revision_to_proto(adapter.model_id, adapter.id, adapter.revision),
        create_time=timestamp_to_proto(adapter.create_time),
        update_time=timestamp_to_proto(adapter.update_time),
        catalog_revision=adapter.catalog_revision,
        etag=etags.etag_of(adapter),
        delete_time=optional_timestamp_to_proto(adapter.delete_time),
        purge_time=optional_timestamp_to_proto(adapter.purge_time),
    )
    _add_statuses(message, statuses)
    return message


def route_revision_to_proto(route_id: str, revision: RouteRevision) -> route_pb2.RouteRevision:
    return route_pb2.RouteRevision(
        name=names.route_revision_name(route_id, revision.number),
        number=revision.number,
        spec=revision.spec,
        create_time=timestamp_to_proto(revision.create_time),
        catalog_revision=revision.catalog_revision,
    )


def route_to_proto(route: Route) -> route_pb2.Route:
    return route_pb2.Route(
        name=route.name,
        uid=route.uid,
        served_name=route.served_name,
        labels=route.labels,
        revision=route_revision_to_proto(route.id, route.revision),
        create_time=timestamp_to_proto(route.create_time),
        update_time=timestamp_to_proto(route.update_time),
        catalog_revision=route.catalog_revision,
    )


def commit_to_proto(commit: domain.Commit) -> snapshot_service_pb2.SnapshotSummary:
    return snapshot_service_pb2.SnapshotSummary(
        position=position_to_proto(commit.head.position),
        create_time=timestamp_to_proto(commit.create_time),
        entry_count=commit.head.entry_count,
        method=commit.method,
        resource=commit.resource,
        size_bytes=commit.size_bytes,
    )
