"""How a data plane is, and whether the target has hurt it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from broadsheet.v1 import snapshot_service_pb2, status_pb2
from controlplane.catalog.domain import Position
from controlplane.fleet.data_plane import NO_TRAFFIC, DataPlane, Traffic
from controlplane.fleet.waves.policy import HealthLimits
from controlplane.fleet.waves.rollout import FAILED_KEPT_MAX, Baseline, Harm


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a data plane has reported last."""

    data_plane_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    votes: bool = True
    connected: bool = True
    has_reported: bool = True
    """Whether it has a stream at this control plane, on which it has reported its resources."""
    serving: Position | None = None
    rejected: Position | None = None
    """The snapshot of its last status, if it has rejected it."""
    reason: str = ""
    message: str = ""
    settled_revision: int | None = None
    """The revision that it was pointed to last, if it serves it or has rejected it."""
    with_errors: bool = False
    unwell: Mapping[str, status_pb2.ResourceStatus] = field(default_factory=dict)
    """Its resources that are FAILED or QUARANTINED, by name."""
    traffic: Traffic | None = None
    """None: not known at this control plane."""

    @property
    def quarantined(self) -> int:
        """Entries in quarantine."""
        reported = sum(status.state == status_pb2.RESOURCE_STATE_QUARANTINED for status in self.unwell.values())
        # The phase comes before the states of the resources.
        return max(reported, int(self.with_errors))

    @property
    def failed(self) -> Mapping[str, status_pb2.ResourceStatus]:
        """Resources that are FAILED."""
        failed = status_pb2.RESOURCE_STATE_FAILED
        return {name: status for name, status in self.unwell.items() if status.state == failed}


def seen_of(data_plane_id: str, known: DataPlane) -> Seen:
    """What is known of a data plane. Its messages are read only."""
    progress = known.progress
    is_rejected = progress.phase == snapshot_service_pb2.PHASE_REJECTED
    return Seen(
        data_plane_id=data_plane_id,
        labels=known.record.labels,
        votes=known.record.identity.votes,
        connected=known.connected,
        has_reported=known.has_reported,
        serving=progress.serving,
        rejected=progress.target if is_rejected else None,
        reason=progress.reason if is_rejected else "",
        message=progress.message if is_rejected else "",
        settled_revision=known.settled_revision,
        with_errors=progress.with_errors,
        unwell=known.unwell,
        traffic=known.traffic,
    )


def baseline_of(seen: Seen, before: Traffic = NO_TRAFFIC) -> Baseline:
    """How a data plane is, to be compared with later.

    Args:
        seen: What it has reported.
        before: Its traffic some time ago: the share of errors since then is the one to keep to.
    """
    failed = sorted(map(_hash, seen.failed))
    traffic = seen.traffic
    return Baseline(
        quarantined=seen.quarantined,
        failed=tuple(failed[:FAILED_KEPT_MAX]),
        failed_count=len(failed),
        requests=traffic.requests if traffic is not None else None,
        failures=traffic.failures if traffic is not None else 0,
        error_share=_since(traffic, before).error_share if traffic is not None else 0.0,
    )


def serves(seen: Seen, target: Position) -> bool:
    """Whether it serves the target, or a later snapshot."""
    serving = seen.serving
    return serving is not None and serving.store_uid == target.store_uid and serving.revision >= target.revision


def is_well(seen: Seen, target: Position) -> bool:
    """Whether it is there and serves the target. One that is silent or was never seen is not."""
    return seen.connected and serves(seen, target)


def harm_of(seen: Seen, target: Position, baseline: Baseline, limits: HealthLimits, gone_s: float) -> Harm | None:
    """How the target has hurt a data plane that was given it; None: it has not.

    Args:
        seen: What it has reported.
        target: The snapshot.
        baseline: How it was before.
        limits: How much worse it may become.
        gone_s: For how long it has been disconnected. Seconds; 0: it is connected.
    """
    if not seen.connected:
        if gone_s < limits.disconnected_s:
            return None
        text = f"it is disconnected for more than {limits.disconnected_s:g} s since it got the snapshot"
        return _harm(seen, "DISCONNECTED", text)
    return _rejection(seen, target) or (_worse(seen, baseline, limits) if serves(seen, target) else None)


def _rejection(seen: Seen, target: Position) -> Harm | None:
    if seen.rejected == target:
        return _harm(seen, seen.reason, seen.message)
    if seen.settled_revision == target.revision and not serves(seen, target):
        # Its Hello has listed the snapshot, as after a start from the one before.
        return _harm(seen, "REJECTED", "it lists the snapshot as rejected")
    return None


def _worse(seen: Seen, baseline: Baseline, limits: HealthLimits) -> Harm | None:
    if seen.unwell or seen.with_errors:
        more = seen.quarantined - baseline.quarantined
        if more > limits.quarantined:
            return _of_resource(seen, status_pb2.RESOURCE_STATE_QUARANTINED, f"{more} more entries are in quarantine")
        failed, before = seen.failed, set(baseline.failed)
        is_complete = baseline.failed_count == len(before)
        fresh = [name for name in failed if _hash(name) not in before] if is_complete else []
        more = len(fresh) if is_complete else len(failed) - baseline.failed_count
        if more > limits.failed:
            name = min(fresh, default="")
            return _of_resource(seen, status_pb2.RESOURCE_STATE_FAILED, f"{more} more resources are FAILED", name)
    return _more_errors(seen, baseline, limits)


def _more_errors(seen: Seen, baseline: Baseline, limits: HealthLimits) -> Harm | None:
    if seen.traffic is None or baseline.requests is None:
        return None
    since = _since(seen.traffic, Traffic(requests=baseline.requests, failures=baseline.failures))
    rise = 100 * (since.error_share - baseline.error_share)
    if since.requests < limits.requests_min or rise <= limits.error_percent:
        return None
    text = (
        f"{since.failures} of {since.requests} requests have failed since it got the snapshot: "
        f"{100 * since.error_share:.2g} percent, and {100 * baseline.error_share:.2g} percent before"
    )
    return _harm(seen, "ERROR_SHARE", text)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def _since(now: Traffic, before: Traffic) -> Traffic:
    """The traffic since `before`; all of it, if the agent has restarted since then."""
    if now.requests < before.requests or now.failures < before.failures:
        return now
    return Traffic(requests=now.requests - before.requests, failures=now.failures - before.failures)


def _of_resource(seen: Seen, state: status_pb2.ResourceState.ValueType, text: str, name: str = "") -> Harm:
    """A harm with the words of a resource in this state, if one is reported."""
    reason = status_pb2.ResourceState.Name(state).removeprefix("RESOURCE_STATE_")
    if not name:
        name = min((known for known, status in seen.unwell.items() if status.state == state), default="")
    status = seen.unwell.get(name)
    if status is not None and (status.reason or status.message):
        text = f"{text}; {name}: {status.reason} {status.message}".rstrip()
    return Harm(data_plane_id=seen.data_plane_id, resource=name, reason=reason, message=_shortened(text))


def _harm(seen: Seen, reason: str, message: str) -> Harm:
    return Harm(data_plane_id=seen.data_plane_id, reason=reason or "REJECTED", message=_shortened(message))


def _shortened(text: str) -> str:
    return text if len(text) <= 512 else f"{text[:511]}…"
