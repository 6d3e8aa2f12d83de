"""The entries of a snapshot, made from the records of the catalog. Pure."""

from __future__ import annotations

from google.protobuf import message as protobuf_message

from broadsheet.v1 import snapshot_pb2
from controlplane import errors
from controlplane.catalog import convert, domain, rollout
from controlplane.catalog.routes import Route
from protocol import catalog_digest, names
from protocol.snapshot_limits import BLOB_BYTES_MAX, ENTRIES_MAX, SNAPSHOT_BYTES_MAX

MODEL_ENTRY = snapshot_pb2.ModelEntry.DESCRIPTOR.full_name
ADAPTER_ENTRY = snapshot_pb2.AdapterEntry.DESCRIPTOR.full_name


def model_entry(model: domain.Model) -> domain.Entry:
    """The entry of a model.

    Raises:
        errors.InvalidArgument: The entry is larger than BLOB_BYTES_MAX.
    """
    message = snapshot_pb2.ModelEntry(
        name=model.name,
        uid=model.uid,
        served_name=model.served_name,
        labels=model.labels,
        revision=convert.model_revision_to_proto(model.id, model.stable or model.revision),
        create_time=convert.timestamp_to_proto(model.create_time),
        warm_until=convert.optional_timestamp_to_proto(model.warm_until),
        replace_cold=rollout.replaces_cold(model.rollout_policy),
    )
    if model.stable is not None and model.rollout is not None:
        # A data plane that does not know candidates keeps serving the stable revision.
        message.candidate.CopyFrom(convert.model_revision_to_proto(model.id, model.revision))
        message.candidate_percent = model.rollout.percent
        message.warm_candidate = model.rollout_policy.require_warm
    return entry_of_message(model.name, message)


def adapter_entry(adapter: domain.Adapter) -> domain.Entry:
    """The entry of an adapter.

    Raises:
        errors.InvalidArgument: The entry is larger than BLOB_BYTES_MAX.
    """
    message = snapshot_pb2.AdapterEntry(
        name=adapter.name,
        uid=adapter.uid,
        served_name=adapter.served_name,
        labels=adapter.labels,
        model=names.model_name(adapter.model_id),
        revision=convert.adapter_revision_to_proto(adapter.model_id, adapter.id, adapter.revision),
        create_time=convert.timestamp_to_proto(adapter.create_time),
    )
    return entry_of_message(adapter.name, message)


def route_entry(route: Route) -> domain.Entry:
    """The entry of a route.

    Raises:
        errors.InvalidArgument: The entry is larger than BLOB_BYTES_MAX.
    """
    message = snapshot_pb2.RouteEntry(
        name=route.name,
        uid=route.uid,
        served_name=route.served_name,
        labels=route.labels,
        revision=convert.route_revision_to_proto(route.id, route.revision),
        create_time=convert.timestamp_to_proto(route.create_time),
    )
    return entry_of_message(route.name, message)


def model_revision_entry(model_id: str, model_uid: str, revision: domain.ModelRevision) -> domain.Entry:
    """The entry of a model revision that a route pins."""
    name = names.model_revision_name(model_id, revision.number)
    message = snapshot_pb2.ModelRevisionEntry(
        name=name,
        model=names.model_name(model_id),
        model_uid=model_uid,
        revision=convert.model_revision_to_proto(model_id, revision),
    )
    return entry_of_message(name, message)


def adapter_revision_entry(
    model_id: str, adapter_id: str, adapter_uid: str, revision: domain.AdapterRevision
) -> domain.Entry:
    """The entry of an adapter revision that a route pins."""
    name = names.adapter_revision_name(model_id, adapter_id, revision.number)
    message = snapshot_pb2.AdapterRevisionEntry(
        name=name,
        adapter=names.adapter_name(model_id, adapter_id),
        adapter_uid=adapter_uid,
        revision=convert.adapter_revision_to_proto(model_id, adapter_id, revision),
    )
    return entry_of_message(name, message)


def entry_of_message(name: str, message: protobuf_message.Message) -> domain.Entry:
    """The entry that holds `message`.

    Raises:
        errors.InvalidArgument: The entry is larger than BLOB_BYTES_MAX.
    """
    # Deterministic, so that this process makes one blob of equal messages. Other processes may
    # serialise differently: the stored bytes are hashed and sent, never made again.
    blob = message.SerializeToString(deterministic=True)
    if len(blob) > BLOB_BYTES_MAX:
        raise errors.InvalidArgument(
            errors.Reason.ENTRY_TOO_LARGE,
            f"{name} would be an entry of {len(blob)} bytes; at most {BLOB_BYTES_MAX} are allowed",
            metadata={"sizeBytes": str(len(blob)), "sizeBytesMax": str(BLOB_BYTES_MAX)},
        )
    return domain.Entry(
        name=name, type=message.DESCRIPTOR.full_name, digest=catalog_digest.blob_digest(blob), blob=blob
    )


def check_entry_count(entry_count: int) -> None:
    """Refuse a catalog with more entries than a snapshot may have.

    Raises:
        errors.ResourceExhausted: There are too many.
    """
    if entry_count > ENTRIES_MAX:
        raise errors.ResourceExhausted(
            errors.Reason.CATALOG_FULL,
            f"the catalog would have {entry_count} models, adapters, routes and keys; at most {ENTRIES_MAX} are "
            "allowed; delete some",
            metadata={"entryCount": str(entry_count), "entryCountMax": str(ENTRIES_MAX)},
        )


def check_bytes(size_bytes: int) -> None:
    """Refuse a catalog with more bytes than a snapshot may have.

    Raises:
        errors.ResourceExhausted: There are too many.
    """
    if size_bytes > SNAPSHOT_BYTES_MAX:
        raise errors.ResourceExhausted(
            errors.Reason.CATALOG_FULL,
            f"the snapshot would have {size_bytes} bytes; at most {SNAPSHOT_BYTES_MAX} are allowed; delete resources, "
            "or shorten their cards, labels and engine arguments",
            metadata={"sizeBytes": str(size_bytes), "sizeBytesMax": str(SNAPSHOT_BYTES_MAX)},
        )
