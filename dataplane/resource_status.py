"""What the agent tells the control plane of its models and adapters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dataplane.activation import ModelActivation, State
from dataplane.adapter_names import engine_adapter_name
from dataplane.posts import EngineReport
from dataplane.snapshot import Snapshot
from modelplane.v1 import snapshot_pb2, status_pb2

_MESSAGE_CHARACTERS_MAX = 2000

_STATES = {
    State.DEPLOYING: status_pb2.RESOURCE_STATE_DEPLOYING,
    State.READY: status_pb2.RESOURCE_STATE_READY,
    State.IDLE: status_pb2.RESOURCE_STATE_IDLE,
    State.DEGRADED: status_pb2.RESOURCE_STATE_DEGRADED,
    State.FAILED: status_pb2.RESOURCE_STATE_FAILED,
    State.DRAINING: status_pb2.RESOURCE_STATE_DRAINING,
    State.QUARANTINED: status_pb2.RESOURCE_STATE_QUARANTINED,
}


def resource_statuses(
    snapshot: Snapshot,
    activations: Mapping[str, ModelActivation],
    engines: Mapping[str, Mapping[str, EngineReport]],
    draining: frozenset[str],
    cold_starts: Mapping[str, status_pb2.ColdStart],
) -> dict[str, status_pb2.ResourceStatus]:
    """The status of every model and pinned revision, of each adapter that is loaded or could not be, and of every
    quarantined entry.

    Args:
        snapshot: The active one.
        activations: By model or pinned revision; one that is not in it is IDLE.
        engines: Reports of the engine replicas, by application and replica id.
        draining: Models of which an application still finishes requests, and none answers new ones.
        cold_starts: The latest start from zero, by model or pinned revision.
    """
    statuses = {
        name: _model_status(entry, activations.get(name), name in draining)
        for name, entry in snapshot.deployable.items()
    }
    for name, cold_start in cold_starts.items():
        if name in statuses:
            statuses[name].cold_start.CopyFrom(cold_start)
    for name, quarantine in snapshot.quarantined.items():
        statuses[name] = status_pb2.ResourceStatus(
            name=name,
            revision_number=quarantine.revision_number,
            state=status_pb2.RESOURCE_STATE_QUARANTINED,
            reason=quarantine.reason,
            message=quarantine.message[:_MESSAGE_CHARACTERS_MAX],
        )
    reports = [report for replicas in engines.values() for report in replicas.values()]
    statuses.update(_adapter_statuses(snapshot, reports))
    return statuses


class Stamps:
    """Remembers since when each resource is in its state."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[tuple[int, int, str], float]] = {}

    def stamped(
        self, statuses: dict[str, status_pb2.ResourceStatus], now: float
    ) -> dict[str, status_pb2.ResourceStatus]:
        """`statuses` with their `update_time`; `now` in seconds since the epoch."""
        since = {}
        for name, status in statuses.items():
            state = (status.state, status.revision_number, status.reason)
            known = self._since.get(name)
            since[name] = known if known and known[0] == state else (state, now)
            status.update_time.FromNanoseconds(int(since[name][1] * 1e9))
        self._since = since
        return statuses


def _model_status(
    entry: snapshot_pb2.ModelEntry, activation: ModelActivation | None, draining: bool
) -> status_pb2.ResourceStatus:
    if activation is None:
        return status_pb2.ResourceStatus(
            name=entry.name,
            revision_number=entry.revision.number,
            state=_STATES[State.DRAINING if draining else State.IDLE],
        )
    return status_pb2.ResourceStatus(
        name=entry.name,
        revision_number=activation.revision_number,
        state=_STATES[activation.state],
        reason=activation.reason,
        message=activation.message[:_MESSAGE_CHARACTERS_MAX],
        ready_replicas=len(activation.endpoints),
        application=activation.application,
    )


def _adapter_statuses(snapshot: Snapshot, reports: Iterable[EngineReport]) -> dict[str, status_pb2.ResourceStatus]:
    loaded: dict[str, int] = {}
    failed: dict[str, str] = {}
    for report in reports:
        for name in report.adapters:
            loaded[name] = loaded.get(name, 0) + 1
        failed.update(report.failed_adapters)
    if not loaded and not failed:
        return {}
    statuses = {}
    for adapter in snapshot.adapters.values():
        name = engine_adapter_name(adapter)
        if name in failed:
            reason, _, message = failed[name].partition(": ")
            statuses[adapter.name] = status_pb2.ResourceStatus(
                name=adapter.name,
                revision_number=adapter.revision.number,
                state=status_pb2.RESOURCE_STATE_FAILED,
                reason=reason,
                message=message[:_MESSAGE_CHARACTERS_MAX],
            )
        elif name in loaded:
            statuses[adapter.name] = status_pb2.ResourceStatus(
                name=adapter.name,
                revision_number=adapter.revision.number,
                state=status_pb2.RESOURCE_STATE_READY,
                ready_replicas=loaded[name],
            )
    return statuses
