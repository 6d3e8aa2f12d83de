"""What entries stand for beside themselves: revisions as models and adapters of their own. Pure."""

from __future__ import annotations

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.snapshot import model_of


def is_wanted_unasked(entry: snapshot_pb2.ModelEntry) -> bool:
    """Whether a model may be wanted without a request."""
    return entry.revision.spec.scaling.min_replicas > 0 or entry.HasField("warm_until")


def candidate_model(name: str, model: snapshot_pb2.ModelEntry) -> snapshot_pb2.ModelEntry:
    """The revision that is being rolled out, as a model of its own.

    Args:
        name: Its resource name, from `candidate_name`.
        model: The model that it is a candidate of.
    """
    entry = snapshot_pb2.ModelEntry(name=name, uid=model.uid, served_name=model.served_name, revision=model.candidate)
    scaling = entry.revision.spec.scaling
    if model.warm_candidate:
        # Its engine starts before the first request, in the same application.
        scaling.min_replicas = max(1, scaling.min_replicas)
    return entry


def pinned_model(
    pin: snapshot_pb2.ModelRevisionEntry, model: snapshot_pb2.ModelEntry | None
) -> snapshot_pb2.ModelEntry:
    """A pinned revision of a model, as a model of its own.

    Args:
        pin: The pin.
        model: The model that is served under its name; None: it is quarantined.
    """
    return snapshot_pb2.ModelEntry(
        name=pin.name,
        uid=pin.model_uid,
        # Engines need a name to start with. Callers use the served names of routes.
        served_name=model.served_name if model is not None else pin.model.removeprefix("models/"),
        revision=pin.revision,
    )


def pinned_adapter(pin: snapshot_pb2.AdapterRevisionEntry) -> snapshot_pb2.AdapterEntry:
    """A pinned revision of an adapter, as an adapter of its own."""
    return snapshot_pb2.AdapterEntry(
        name=pin.name,
        uid=pin.adapter_uid,
        served_name=pin.name,  # unique, so that its engine-side name is unique too
        model=model_of(pin.name),
        revision=pin.revision,
    )
