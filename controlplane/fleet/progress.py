"""What a data plane reports about snapshots and resources. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord, Identity, Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a data plane has reported about snapshots."""

    serving: Position | None = None
    target: Position | None = None
    """The snapshot of its last report."""
    phase: pb.Phase.ValueType = pb.PHASE_UNSPECIFIED
    reason: str = ""
    message: str = ""
    with_errors: bool = False
    """Entries of `serving` are quarantined."""
    revocations_sequence: int = 0
    """The newest revocation that it applies, by sequence. 0: none."""

    def serves(self, revision: int) -> bool:
        """Whether it serves `revision` or a later one."""
        return self.serving is not None and self.serving.revision >= revision


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceChange:
    """What a data plane has reported about its resources."""

    replace: bool = False
    """Forget all statuses from before."""
    updated: tuple[status_pb2.ResourceStatus, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.replace or self.updated or self.removed)


NO_CHANGE = ResourceChange()


def record_of(
    hello: pb.Hello, progress: Progress, *, now: datetime, identity: Identity = Identity.SHARED
) -> DataPlaneRecord:
    """The record of a data plane that connects now."""
    return DataPlaneRecord(
        id=hello.data_plane,
        instance_uid=hello.instance_uid,
        serving=progress.serving,
        target=progress.target,
        phase=progress.phase,
        reason=progress.reason,
        message=progress.message,
        http_address=hello.http_address,
        software_version=hello.software_version,
        connect_time=now,
        last_seen_time=now,
        identity=identity,
        revocations_sequence=progress.revocations_sequence,
        labels=dict(hello.labels),
    )


def record_with(record: DataPlaneRecord, progress: Progress, *, now: datetime) -> DataPlaneRecord:
    """The record after a report that came now."""
    return replace(
        record,
        serving=progress.serving,
        target=progress.target,
        phase=progress.phase,
        reason=progress.reason,
        message=progress.message,
        last_seen_time=now,
        revocations_sequence=progress.revocations_sequence,
    )


def progress_in(record: DataPlaneRecord) -> Progress:
    """The progress that a record holds."""
    return Progress(
        serving=record.serving,
        target=record.target,
        phase=record.phase,
        reason=record.reason,
        message=record.message,
        with_errors=record.phase == pb.PHASE_ACTIVE_WITH_ERRORS and record.target == record.serving,
        revocations_sequence=record.revocations_sequence,
    )
