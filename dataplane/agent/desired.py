"""What a model's entry asks of its Ray Serve application. Pure."""

from __future__ import annotations

import hashlib

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.snapshot.snapshot import model_of

APPLICATION_NAME_PREFIX = "broadsheet-"
"""Every application of a data plane has a name that begins with this."""
_DIGEST_CHARACTERS = 12


def application_name(entry: snapshot_pb2.ModelEntry) -> str:
    """Name of the application for an entry: the model id and a digest.

    The digest covers everything that needs new replicas when it changes. That leaves out the card,
    labels, served name, admission and, except for `idle`, scaling.
    """
    spec = model_pb2.ModelSpec()
    spec.CopyFrom(entry.revision.spec)
    spec.ClearField("admission")
    spec.ClearField("scaling")
    if idle := entry.revision.spec.scaling.idle:
        spec.scaling.idle = idle  # whether an engine can sleep is decided when it starts
    identity = entry.uid.encode() + b"\0" + spec.SerializeToString(deterministic=True)
    model_id = model_of(entry.name).removeprefix("models/")
    return f"{APPLICATION_NAME_PREFIX}{model_id}-{hashlib.sha256(identity).hexdigest()[:_DIGEST_CHARACTERS]}"


def replica_bounds(scaling: model_pb2.Scaling) -> bytes:
    """The part of `scaling` that is given to Ray Serve, in a form that can be compared.

    It leaves out what happens at zero: `downscale_to_zero_delay` and `idle`. A `min_replicas` of 0
    counts as 1, because an application always starts with a replica. Whether there is an
    application at all is decided by the reconciler.
    """
    bounds = model_pb2.Scaling()
    bounds.CopyFrom(scaling)
    bounds.ClearField("downscale_to_zero_delay")
    bounds.ClearField("idle")
    bounds.min_replicas = max(1, bounds.min_replicas)
    return bounds.SerializeToString(deterministic=True)


def sleeps_when_idle(entry: snapshot_pb2.ModelEntry) -> bool:
    """Whether the replicas of an idle model sleep instead of being deleted."""
    return entry.revision.spec.scaling.idle == model_pb2.Scaling.IDLE_SLEEP
