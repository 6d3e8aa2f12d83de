"""The admission limits of one model. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf import duration_pb2

from broadsheet.v1 import snapshot_pb2


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """A model's `Admission`, with the defaults that model.proto states for unset fields."""

    max_ongoing_requests: int
    """Requests in flight at one endpoint, from this ingress replica."""
    max_queued_requests: int
    """Requests that may wait at this ingress replica."""
    queue_timeout_s: float
    """Longest wait for room at an endpoint."""
    cold_start_timeout_s: float
    """Longest wait for the model to start."""

    @classmethod
    def of(cls, model: snapshot_pb2.ModelEntry) -> ModelLimits:
        admission = model.revision.spec.admission
        return cls(
            admission.max_ongoing_requests if admission.HasField("max_ongoing_requests") else 1024,
            admission.max_queued_requests if admission.HasField("max_queued_requests") else 1000,
            _seconds(admission.queue_timeout) if admission.HasField("queue_timeout") else 30.0,
            _seconds(admission.cold_start_timeout) if admission.HasField("cold_start_timeout") else 600.0,
        )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
