"""The RPCs of data planes: which there are, what they serve, and waiting for them."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from types import MappingProxyType

from broadsheet.v1 import enrollment_pb2, snapshot_pb2, status_pb2
from broadsheet.v1 import fleet_service_pb2 as pb
from controlplane.access.enrolled import EnrolledDataPlanes
from controlplane.catalog.convert import position_to_proto, timestamp_to_proto
from controlplane.catalog.data_planes.enrollment import Enrollment
from controlplane.catalog.domain import HISTORY_MAX, DataPlaneRecord, Head, Identity, Position, PositionChange
from controlplane.errors import data_plane_connected, data_plane_not_found
from controlplane.fleet.fleet import Fleet
from controlplane.fleet.state import DataPlaneView
from controlplane.fleet.waiting.outcomes import DataPlaneOutcome, Outcome
from controlplane.listing import paging
from controlplane.rpc.handlers import idempotency
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol.names import data_plane_name, parse_data_plane

WAIT_TIMEOUT_DEFAULT_S = 30.0

RESOURCES_BYTES_MAX = 3 * 1024 * 1024
"""Resource statuses in one answer. gRPC clients accept messages of 4 MiB by default."""

_STORE_PAGE = 1000
"""Records of data planes read at a time."""

_OUTCOMES: Mapping[Outcome, pb.DataPlaneOutcome.Outcome.ValueType] = MappingProxyType(
    {
        Outcome.ACTIVE: pb.DataPlaneOutcome.OUTCOME_ACTIVE,
        Outcome.ACTIVE_WITH_ERRORS: pb.DataPlaneOutcome.OUTCOME_ACTIVE_WITH_ERRORS,
        Outcome.REJECTED: pb.DataPlaneOutcome.OUTCOME_REJECTED,
        Outcome.PENDING: pb.DataPlaneOutcome.OUTCOME_PENDING,
        Outcome.MISSING: pb.DataPlaneOutcome.OUTCOME_MISSING,
    }
)

_IDENTITIES: Mapping[Identity, pb.DataPlane.Identity.ValueType] = MappingProxyType(
    {
        Identity.BOUND: pb.DataPlane.IDENTITY_BOUND,
        Identity.LOCAL: pb.DataPlane.IDENTITY_LOCAL,
        Identity.SHARED: pb.DataPlane.IDENTITY_SHARED,
    }
)


class FleetHandler:
    """Reads the fleet, waits for it, and removes data planes.

    Its state in memory is newer than the stored records.
    """

    def __init__(self, store: Store, fleet: Fleet, enrolled: EnrolledDataPlanes) -> None:
        """
        Args:
            store: Holds the records of all data planes that have connected and were not removed.
            fleet: What data planes have reported.
            enrolled: Their enrolments.
        """
        self._enrolled = enrolled
        self._store = store
        self._data_planes = store.data_planes
        self._fleet = fleet
        self._answered: tuple[Sequence[DataPlaneOutcome], pb.WaitForRevisionResponse] | None = None
        """The last answer to WaitForRevision, and what it was made of."""
        self._removals: set[asyncio.Task[pb.RemoveDataPlaneResponse]] = set()
        """Under way; asyncio itself keeps no reference to a task."""

    async def list_data_planes(self, request: pb.ListDataPlanesRequest) -> pb.ListDataPlanesResponse:
        size = paging.page_size(request.page_size)
        cursor = paging.cursor(request, request.page_token, str)
        after_id = str(cursor[0]) if cursor is not None else ""
        await self._fleet.database.catch_up()
        stored = {record.id: record for record in await self._data_planes.list(after_id=after_id, limit=size + 1)}
        known, enrolled = (_after(ids, after_id, size + 1) for ids in (self._fleet.state.ids, self._enrolled.ids))
        ids = sorted({*stored, *known, *enrolled})
        await self._fleet.waves.refresh()
        shown = [self._shown(data_plane_id, stored) for data_plane_id in ids[:size]]
        self._add_waves(shown)
        return pb.ListDataPlanesResponse(
            data_planes=shown,
            next_page_token=paging.token(request, (ids[size - 1],)) if len(ids) > size else "",
        )

    async def get_data_plane(self, request: pb.GetDataPlaneRequest) -> pb.GetDataPlaneResponse:
        data_plane_id = parse_data_plane(request.name)
        await self._fleet.database.catch_up()
        stored = await self._only_stored([data_plane_id])
        if self._view(data_plane_id, stored) is None and self._enrolled.get(data_plane_id) is None:
            raise data_plane_not_found(request.name)
        await self._fleet.waves.refresh()
        data_plane = self._shown(data_plane_id, stored)
        self._add_waves([data_plane])
        data_plane.history.extend(map(_change, await self._history(data_plane_id)))
        data_plane.resources.extend(_fitting(self._fleet.state.resources(data_plane_id)))
        return pb.GetDataPlaneResponse(data_plane=data_plane)

    async def wait_for_revision(self, request: pb.WaitForRevisionRequest) -> pb.WaitForRevisionResponse:
        named = [parse_data_plane(name) for name in request.data_planes]
        await self._fleet.database.catch_up()
        stored = await (self._only_stored(named) if named else self._all_only_stored())
        timeout_s = WAIT_TIMEOUT_DEFAULT_S
        if request.HasField("timeout"):
            timeout_s = request.timeout.seconds + request.timeout.nanos / 1e9
        outcomes = await self._fleet.waiters.wait_for_revision(
            request.revision, named or [*self._fleet.state.ids, *stored], timeout_s, stored
        )
        # Callers that have waited for the same share the outcomes, and then the answer.
        if self._answered is None or self._answered[0] is not outcomes:
            self._answered = outcomes, _wait_response(outcomes)
        return self._answered[1]

    async def remove_data_plane(self, request: pb.RemoveDataPlaneRequest) -> pb.RemoveDataPlaneResponse:
        # It goes on when the caller is gone: what is deleted must be forgotten, too.
        removal = asyncio.create_task(self._remove(request))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        return await asyncio.shield(removal)

    async def _remove(self, request: pb.RemoveDataPlaneRequest) -> pb.RemoveDataPlaneResponse:
        data_plane_id = parse_data_plane(request.name)
        await self._fleet.database.catch_up()
        stored = await self._only_stored([data_plane_id])
        is_first = False

        async def work(transaction: WriteTransaction) -> pb.RemoveDataPlaneResponse:
            nonlocal is_first
            view = self._view(data_plane_id, stored)
            if view is not None and view.connected and not request.force:
                raise data_plane_connected(request.name)
            was = self._shown(data_plane_id, stored)
            is_enrolled = await transaction.enrollments.remove(data_plane_id)
            if view is None and not is_enrolled:
                raise data_plane_not_found(request.name)
            await transaction.data_planes.remove(data_plane_id)
            is_first = True
            return pb.RemoveDataPlaneResponse(data_plane=was)

        async with self._fleet.writer.paused():
            answer = await idempotency.commit(
                self._store, request, pb.RemoveDataPlaneResponse, work, resource=request.name
            )
            # A repeat must not end the stream of a data plane that has come back since.
            if is_first and not request.validate_only:
                self._fleet.state.forget(data_plane_id)
                await self._enrolled.changed(removed=data_plane_id)
        return answer

    def _add_waves(self, shown: Sequence[pb.DataPlane]) -> None:
        """Say which wave each is in, and whether it is held."""
        waves = self._fleet.waves
        number_of = waves.wave_numbers()
        for data_plane in shown:
            data_plane_id = parse_data_plane(data_plane.name)
            data_plane.wave = number_of(data_plane_id, data_plane.labels)
            data_plane.held = waves.held(data_plane_id)

    def _view(self, data_plane_id: str, stored: Mapping[str, DataPlaneRecord]) -> DataPlaneView | None:
        """What is known of a data plane that is in memory, or else in `stored`; None: neither."""
        record = stored.get(data_plane_id)
        stored_view = DataPlaneView.of_stored(record) if record is not None else None
        return self._fleet.state.view(data_plane_id) or stored_view

    def _shown(self, data_plane_id: str, stored: Mapping[str, DataPlaneRecord]) -> pb.DataPlane:
        """A data plane in an answer. It may be one that is enrolled and has never connected."""
        view = self._view(data_plane_id, stored)
        shown = (
            _data_plane(view, self._fleet.state.head)
            if view is not None
            else pb.DataPlane(name=data_plane_name(data_plane_id))
        )
        lag = self._fleet.lags.of(view.record.serving) if view is not None else None
        if lag is not None:
            shown.lag.revisions = lag.revisions
            shown.lag.duration.FromTimedelta(timedelta(seconds=lag.duration_s))
        enrollment = self._enrolled.get(data_plane_id)
        if enrollment is not None:
            shown.enrollment.CopyFrom(_enrollment(enrollment, self._store.enrollments.now()))
        return shown

    async def _history(self, data_plane_id: str) -> Sequence[PositionChange]:
        """The last changes of a data plane, newest first, also those that are yet to be written."""
        known = self._fleet.state.get(data_plane_id)
        unwritten = tuple(reversed(known.history.unwritten)) if known is not None else ()
        newest = unwritten[-1].number if unwritten else None
        stored = await self._data_planes.history(data_plane_id)
        return [*unwritten, *(change for change in stored if newest is None or change.number < newest)][:HISTORY_MAX]

    async def _only_stored(self, ids: Iterable[str]) -> Mapping[str, DataPlaneRecord]:
        """The records of those data planes that the database has and the full memory has not."""
        stored = {}
        for data_plane_id in ids:
            if self._fleet.state.get(data_plane_id) is None:
                record = await self._data_planes.find(data_plane_id)
                if record is not None and not self._fleet.state.remember(record):
                    stored[data_plane_id] = record
        return stored

    async def _all_only_stored(self) -> Mapping[str, DataPlaneRecord]:
        stored = {}
        after_id = ""
        while page := await self._data_planes.list(after_id=after_id, limit=_STORE_PAGE):
            stored.update({record.id: record for record in page if not self._fleet.state.remember(record)})
            after_id = page[-1].id
        return stored


def _wait_response(outcomes: Sequence[DataPlaneOutcome]) -> pb.WaitForRevisionResponse:
    active = [outcome.outcome in (Outcome.ACTIVE, Outcome.ACTIVE_WITH_ERRORS) for outcome in outcomes]
    return pb.WaitForRevisionResponse(
        outcomes=[_outcome(outcome) for outcome in outcomes],
        # Without any data plane the revision is active nowhere, not everywhere.
        active_everywhere=bool(active) and all(active),
    )


def _data_plane(view: DataPlaneView, head: Head) -> pb.DataPlane:
    record = view.record
    return pb.DataPlane(
        name=data_plane_name(record.id),
        connected=view.connected,
        instance_uid=record.instance_uid,
        serving=_position(record.serving),
        target=_position(record.target),
        phase=record.phase,
        reason=record.reason,
        message=record.message,
        http_address=record.http_address,
        software_version=record.software_version,
        connect_time=timestamp_to_proto(record.connect_time),
        last_seen_time=timestamp_to_proto(record.last_seen_time),
        identity=_IDENTITIES[record.identity],
        votes=record.identity.votes,
        revocations_sequence=record.revocations_sequence,
        revocations_missing=max(0, head.revocations_sequence - record.revocations_sequence),
        labels=record.labels,
    )


def _enrollment(enrollment: Enrollment, now: datetime) -> enrollment_pb2.Enrollment:
    waits = enrollment.token_spend_time is None and now < enrollment.token_expire_time
    enrolled = enrollment.enroll_time
    return enrollment_pb2.Enrollment(
        enroll_time=timestamp_to_proto(enrolled) if enrolled is not None else None,
        token_expire_time=timestamp_to_proto(enrollment.token_expire_time) if waits else None,
    )


def _change(change: PositionChange) -> pb.PositionChange:
    return pb.PositionChange(
        time=timestamp_to_proto(change.time),
        serving=_position(change.serving),
        phase=change.phase,
        reason=change.reason,
        rejected=_position(change.rejected),
    )


def _after(ids: Sequence[str], after_id: str, limit: int) -> Sequence[str]:
    """Up to `limit` of the sorted ids, only those after `after_id`."""
    first = bisect_right(ids, after_id)
    return ids[first : first + limit]


def _fitting(resources: Sequence[status_pb2.ResourceStatus]) -> Sequence[status_pb2.ResourceStatus]:
    """The statuses that fit into an answer. Those that are just IDLE are left out first."""
    if sum(map(_wire_bytes, resources)) <= RESOURCES_BYTES_MAX:
        return resources
    notable = [resource for resource in resources if resource.state != status_pb2.RESOURCE_STATE_IDLE]
    ends = list(accumulate(map(_wire_bytes, notable)))
    return notable[: bisect_right(ends, RESOURCES_BYTES_MAX)]


def _wire_bytes(resource: status_pb2.ResourceStatus) -> int:
    return resource.ByteSize() + 5  # tag and length


def _outcome(outcome: DataPlaneOutcome) -> pb.DataPlaneOutcome:
    return pb.DataPlaneOutcome(
        data_plane=data_plane_name(outcome.data_plane_id),
        outcome=_OUTCOMES[outcome.outcome],
        serving=_position(outcome.serving),
        reason=outcome.reason,
        message=outcome.message,
    )


def _position(position: Position | None) -> snapshot_pb2.Position | None:
    return position_to_proto(position) if position is not None else None
