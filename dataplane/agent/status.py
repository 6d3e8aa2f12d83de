"""The statuses of models and adapters that are reported to the control plane. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set

from broadsheet.v1 import snapshot_pb2, status_pb2
from dataplane.agent.situation import Application, Phase
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import EngineReport
from dataplane.snapshot.activation import ModelActivation, State
from dataplane.snapshot.snapshot import Snapshot
from protocol.validation import plain_text

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


def notable_statuses(
    snapshot: Snapshot,
    activations: Mapping[str, ModelActivation],
    engines: Mapping[str, Mapping[str, EngineReport]],
    draining: frozenset[str],
    cold_starts: Mapping[str, status_pb2.ColdStart],
) -> dict[str, status_pb2.ResourceStatus]:
    """The statuses that say more than IDLE, by resource name.

    They are of models and pinned revisions that are in use, of adapters that were loaded, refused
    or are still to be tried, and of quarantined entries.

    Args:
        snapshot: The active one.
        activations: By model or pinned revision. Those that are left out are IDLE.
        engines: Reports of the live engine replicas, by application and replica id.
        draining: Models whose applications finish requests and get no new ones.
        cold_starts: The latest start from zero, by model or pinned revision.
    """
    statuses = {
        name: _model_status(entry, activations.get(name))
        for name in (*activations, *draining)
        if (entry := snapshot.deployable.get(name)) is not None
    }
    for name, cold_start in cold_starts.items():
        entry = snapshot.deployable.get(name)
        if entry is not None:
            statuses.setdefault(name, _idle_status(entry)).cold_start.CopyFrom(cold_start)
    for name, quarantine in snapshot.quarantined.items():
        statuses[name] = status_pb2.ResourceStatus(
            name=name,
            revision_number=quarantine.revision_number,
            state=status_pb2.RESOURCE_STATE_QUARANTINED,
            reason=quarantine.reason,
            message=plain_text(quarantine.message[:_MESSAGE_CHARACTERS_MAX]),
        )
    statuses.update(adapter_statuses(snapshot, engines))
    return statuses


def draining_models(applications: Iterable[Application], active: Set[str]) -> frozenset[str]:
    """Models whose applications finish requests and get no new ones.

    Args:
        applications: Of all models.
        active: Models and pinned revisions with an activation.
    """
    return frozenset(
        application.model
        for application in applications
        if application.model not in active and application.phase is Phase.RUNNING
    )


class Statuses:
    """All statuses that are reported, each with the time since which it has been so.

    As long as the snapshot stays the same, only statuses that say more than IDLE, or did, are made
    anew. Ten thousand IDLE models cost nothing.
    """

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._notable: Mapping[str, status_pb2.ResourceStatus] = {}
        self._current: dict[str, status_pb2.ResourceStatus] = {}

    def update(
        self, snapshot: Snapshot, notable: Mapping[str, status_pb2.ResourceStatus], now: float
    ) -> Mapping[str, status_pb2.ResourceStatus]:
        """All statuses, by resource name: `notable`, and IDLE for all other models.

        A status that has not changed is the same message as before. Messages are not changed after
        they were returned.

        Args:
            snapshot: The active one.
            notable: From `notable_statuses`. They get their `update_time` here.
            now: Seconds since the epoch.
        """
        if snapshot is not self._snapshot:
            idle: Iterable[str] = snapshot.deployable.keys() - notable.keys()
            current: dict[str, status_pb2.ResourceStatus] = {}
        else:
            idle = self._notable.keys() - notable.keys()
            current = self._current
        before = self._current
        for name, status in notable.items():
            current[name] = _stamped(status, before.get(name), now)
        for name in idle:
            entry = snapshot.deployable.get(name)
            if entry is not None:
                current[name] = _stamped(_idle_status(entry), before.get(name), now)
            else:
                current.pop(name, None)
        self._snapshot, self._notable, self._current = snapshot, notable, current
        return current

    def with_adapters(
        self, adapters: Mapping[str, status_pb2.ResourceStatus], now: float
    ) -> Mapping[str, status_pb2.ResourceStatus]:
        """All statuses as of the last update, but with newer ones of some adapters."""
        current = dict(self._current)
        for name, status in adapters.items():
            current[name] = _stamped(status, self._current.get(name), now)
        return current


def _stamped(
    status: status_pb2.ResourceStatus, known: status_pb2.ResourceStatus | None, now: float
) -> status_pb2.ResourceStatus:
    if known is not None and _state_of(known) == _state_of(status):
        status.update_time.CopyFrom(known.update_time)
        return known if known == status else status
    status.update_time.FromNanoseconds(int(now * 1e9))
    return status


def _state_of(status: status_pb2.ResourceStatus) -> tuple[int, int, str]:
    return status.state, status.revision_number, status.reason


def _idle_status(entry: snapshot_pb2.ModelEntry) -> status_pb2.ResourceStatus:
    return status_pb2.ResourceStatus(
        name=entry.name, revision_number=entry.revision.number, state=status_pb2.RESOURCE_STATE_IDLE
    )


def _model_status(entry: snapshot_pb2.ModelEntry, activation: ModelActivation | None) -> status_pb2.ResourceStatus:
    if activation is None:
        return status_pb2.ResourceStatus(
            name=entry.name, revision_number=entry.revision.number, state=status_pb2.RESOURCE_STATE_DRAINING
        )
    return status_pb2.ResourceStatus(
        name=entry.name,
        revision_number=activation.revision_number,
        state=_STATES[activation.state],
        reason=activation.reason,
        message=plain_text(activation.message[:_MESSAGE_CHARACTERS_MAX]),
        ready_replicas=len(activation.endpoints),
        application=activation.application,
    )


def adapter_statuses(
    snapshot: Snapshot, engines: Mapping[str, Mapping[str, EngineReport]]
) -> dict[str, status_pb2.ResourceStatus]:
    """The statuses of adapters that say more than IDLE, by resource name.

    Args:
        snapshot: The active one.
        engines: Reports of the live engine replicas, by application and replica id.
    """
    reports = [report for replicas in engines.values() for report in replicas.values()]
    loaded: Counter[str] = Counter()
    failed: dict[str, str] = {}
    tried: dict[str, int] = {}
    for report in reports:
        loaded.update(report.adapters)
        failed.update(report.failed_adapters)
        if report.adapters_tried:
            tried[report.model] = min(report.adapters_tried, tried.get(report.model, report.adapters_tried))
    untried = any(revision < snapshot.position.revision for revision in tried.values())
    if not loaded and not failed and not untried:
        return {}
    return {
        adapter.name: status
        for adapter in snapshot.adapters.values()
        if (status := _adapter_status(adapter, loaded, failed, tried)) is not None
    }


def _adapter_status(
    adapter: snapshot_pb2.AdapterEntry, loaded: Mapping[str, int], failed: Mapping[str, str], tried: Mapping[str, int]
) -> status_pb2.ResourceStatus | None:
    """The status of an adapter. None: it is IDLE.

    Args:
        adapter: The adapter.
        loaded: How many replicas have loaded it, by engine-side name.
        failed: Why it could not be loaded, by engine-side name.
        tried: By model: up to which catalog revision all its replicas have tried new adapters.
    """
    name = engine_adapter_name(adapter)
    status = status_pb2.ResourceStatus(name=adapter.name, revision_number=adapter.revision.number)
    is_untried = adapter.revision.catalog_revision > tried.get(adapter.model, adapter.revision.catalog_revision)
    # A failure may be that of an earlier revision with the same weights.
    if name in failed and not is_untried:
        status.state = status_pb2.RESOURCE_STATE_FAILED
        status.reason, _, message = failed[name].partition(": ")
        status.message = plain_text(message[:_MESSAGE_CHARACTERS_MAX])
    elif name in loaded:
        status.state = status_pb2.RESOURCE_STATE_READY
        status.ready_replicas = loaded[name]
    elif is_untried:
        status.state = status_pb2.RESOURCE_STATE_DEPLOYING
    else:
        return None
    return status
