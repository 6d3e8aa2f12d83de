"""The statuses of models and adapters that are reported to the control plane. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set

from broadsheet.v1 import snapshot_pb2, status_pb2
from dataplane.agent.live_adapters import adapter_named, untried_adapters
from dataplane.agent.situation import Application, Phase
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import EngineReport
from dataplane.snapshot.activation import ModelActivation, State
from dataplane.snapshot.persistent.sorted_map import SortedMap
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

    They are of models and pinned revisions that are in use, and of adapters that were loaded,
    refused or are still to be tried. Those of quarantined entries follow from the snapshot
    (`Statuses`), and so do not change what is said of others here.

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
        if (entry := snapshot.deployable.get(name)) is not None and name not in snapshot.quarantined
    }
    for name, cold_start in cold_starts.items():
        entry = snapshot.deployable.get(name)
        if entry is not None and name not in snapshot.quarantined:
            statuses.setdefault(name, _idle_status(entry)).cold_start.CopyFrom(cold_start)
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

    Only those are looked at that say more than IDLE or QUARANTINED, or did, and those of entries
    that a new snapshot has changed. A hundred thousand IDLE models cost nothing.
    """

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._notable: Mapping[str, status_pb2.ResourceStatus] = {}
        self._current: SortedMap[str, status_pb2.ResourceStatus] = SortedMap()

    def update(
        self, snapshot: Snapshot, notable: Mapping[str, status_pb2.ResourceStatus], now: float
    ) -> SortedMap[str, status_pb2.ResourceStatus]:
        """All statuses, by resource name.

        They are `notable`, QUARANTINED for quarantined entries, and IDLE for all other models. A
        status that has not changed is the same message as before. Messages are not changed after
        they were returned.

        Args:
            snapshot: The active one.
            notable: From `notable_statuses`. They get their `update_time` here.
            now: Seconds since the epoch.
        """
        names = {*self._changed_names(snapshot), *self._notable, *notable}
        found = {name: notable.get(name) or _resting_status(snapshot, name) for name in names}
        self._current = self._with(found, now)
        self._snapshot, self._notable = snapshot, notable
        return self._current

    def _changed_names(self, snapshot: Snapshot) -> Iterable[str]:
        before = self._snapshot
        if before is None:
            return (*snapshot.deployable, *snapshot.quarantined)
        return (
            *snapshot.deployable.changed_keys(before.deployable),
            *snapshot.quarantined.changed_keys(before.quarantined),
        )

    def with_adapters(
        self, adapters: Mapping[str, status_pb2.ResourceStatus], now: float
    ) -> SortedMap[str, status_pb2.ResourceStatus]:
        """All statuses as of the last update, but with newer ones of some adapters."""
        return self._with(adapters, now)

    def _with(
        self, found: Mapping[str, status_pb2.ResourceStatus | None], now: float
    ) -> SortedMap[str, status_pb2.ResourceStatus]:
        """The current statuses with those `found`; None removes one."""
        values: dict[str, status_pb2.ResourceStatus] = {}
        removed: list[str] = []
        for name, status in found.items():
            known = self._current.get(name)
            if status is None:
                removed.append(name)
            elif (stamped := _stamped(status, known, now)) is not known:
                values[name] = stamped
        return self._current.updated(values, removed)


def _resting_status(snapshot: Snapshot, name: str) -> status_pb2.ResourceStatus | None:
    """The status of what is not in use; None: none is reported."""
    quarantine = snapshot.quarantined.get(name)
    if quarantine is not None:
        return status_pb2.ResourceStatus(
            name=name,
            revision_number=quarantine.revision_number,
            state=status_pb2.RESOURCE_STATE_QUARANTINED,
            reason=quarantine.reason,
            message=plain_text(quarantine.message[:_MESSAGE_CHARACTERS_MAX]),
        )
    entry = snapshot.deployable.get(name)
    return _idle_status(entry) if entry is not None else None


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
    named = (adapter_named(snapshot, name) for name in (*loaded, *failed))
    adapters = [adapter for adapter in named if adapter is not None and adapter.name in snapshot.adapters]
    return {
        adapter.name: status
        for adapter in (*adapters, *untried_adapters(snapshot, tried))
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
