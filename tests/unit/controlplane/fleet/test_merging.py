from __future__ import annotations

from datetime import UTC, datetime

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from controlplane.catalog.domain import DataPlaneRecord, Identity
from controlplane.fleet.data_plane import Session
from controlplane.fleet.progress import Progress, ResourceChange
from controlplane.fleet.reported_statuses import ReportedStatuses
from controlplane.fleet.state import FleetLimits, FleetState
from controlplane.store.fleet.reports import FleetChange
from tests.unit.controlplane.fleet_world import at, head, record, resource

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Peer:
    """A connection that notes whether it was ended, and why."""

    settled_revision = 5
    traffic = None

    def __init__(self) -> None:
        self.superseded = False
        self.dismissed = False

    def supersede(self) -> None:
        self.superseded = True

    def dismiss(self) -> None:
        self.dismissed = True


def change(
    session: int,
    *,
    number: int,
    connected: bool = True,
    instance_uid: str = "elsewhere",
    replace: bool = False,
    statuses: dict[str, status_pb2.ResourceStatus | None] | None = None,
) -> FleetChange:
    record = DataPlaneRecord(
        id="dp",
        instance_uid=instance_uid,
        serving=at(4),
        target=at(4),
        phase=pb.PHASE_ACTIVE,
        reason="",
        message="",
        http_address="",
        software_version="",
        connect_time=NOW,
        last_seen_time=NOW,
        identity=Identity.LOCAL,
    )
    return FleetChange(
        record=record,
        session=session,
        replica_uid="other",
        connected=connected,
        settled_revision=4,
        number=number,
        replace=replace,
        statuses=statuses or {},
    )


def fleet_with(peer: Peer, session: int) -> FleetState:
    """A fleet with the data plane `dp` connected here, which reports `models/a`."""
    state = FleetState(head=head(5), shares_statuses=True)
    state.attach(pb.Hello(data_plane="dp", instance_uid="here"), Progress(), peer, Session(session), now=NOW)
    state.report("dp", peer, Progress(), ResourceChange(updated=(resource("models/a"),)), now=NOW)
    return state


def instance_of(state: FleetState) -> str:
    view = state.view("dp")
    assert view is not None
    return view.record.instance_uid


def test_own_reports_change_nothing() -> None:
    peer = Peer()
    state = fleet_with(peer, 3)
    state.learn([change(3, number=7)])
    assert not peer.superseded
    assert instance_of(state) == "here"
    assert state.report_numbers() == {"dp": 7}


def test_a_newer_session_elsewhere_supersedes_the_stream() -> None:
    peer = Peer()
    state = fleet_with(peer, 3)
    state.learn([change(4, number=7, statuses={"models/b": resource("models/b")})])
    assert peer.superseded
    view = state.view("dp")
    assert view is not None
    assert (view.connected, view.record.instance_uid, view.progress.serving) == (True, "elsewhere", at(4))
    assert not state.has_unwritten
    # Statuses that were never shared make the next look read all of them.
    assert state.report_numbers() == {"dp": 0}
    state.learn([change(4, number=7, replace=True, statuses={"models/b": resource("models/b")})])
    assert [status.name for status in state.resources("dp")] == ["models/b"]


def test_the_last_report_of_an_ended_stream_is_not_overwritten_before_it_is_written() -> None:
    peer = Peer()
    state = fleet_with(peer, 3)
    state.detach("dp", peer)
    state.learn([change(3, number=7)])
    assert instance_of(state) == "here"
    (report,) = state.take_reports(10)
    assert not report.connected
    state.written([report])
    state.learn([change(3, number=8, connected=False)])
    assert instance_of(state) == "elsewhere"


def test_a_report_of_an_older_session_is_not_written_again() -> None:
    peer = Peer()
    state = fleet_with(peer, 3)
    reports = state.take_reports(10)
    state.learn([change(4, number=7)])
    state.not_written(reports)
    assert not state.has_unwritten


def test_a_look_that_is_older_than_a_stream_here_changes_nothing() -> None:
    peer = Peer()
    state = fleet_with(peer, 3)
    state.detach("dp", peer)
    # It was read from the database before session 3 was claimed.
    state.learn([change(2, number=6)])
    view = state.view("dp")
    assert view is not None
    assert (view.connected, view.record.instance_uid) == (False, "here")
    (report,) = state.take_reports(10)
    assert (report.session, report.connected) == (3, False)


def test_a_stream_here_is_superseded_by_a_newer_session_that_was_learned_before() -> None:
    peer = Peer()
    state = FleetState(head=head(5), shares_statuses=True)
    state.learn([change(4, number=7)])
    state.attach(pb.Hello(data_plane="dp", instance_uid="here"), Progress(), peer, Session(3), now=NOW)
    assert peer.superseded
    state.report("dp", peer, Progress(), ResourceChange(updated=(resource("models/a"),)), now=NOW)
    state.detach("dp", peer)
    assert (instance_of(state), state.resources("dp"), state.has_unwritten) == ("elsewhere", [], False)


def test_a_stream_that_ended_before_it_was_attached_is_reported_as_disconnected() -> None:
    peer = Peer()
    state = fleet_with(peer, 3)
    state.take_reports(10)
    state.learn([change(3, number=7)])
    # The database says that session 4 is connected here since it was claimed.
    state.abandon("dp", Session(4))
    assert peer.superseded
    view = state.view("dp")
    assert view is not None
    assert not view.connected
    (report,) = state.take_reports(10)
    assert (report.session, report.connected) == (4, False)


def test_a_claim_that_was_given_up_late_ends_no_newer_stream() -> None:
    peer = Peer()
    state = fleet_with(peer, 3)
    state.abandon("dp", Session(2))
    state.abandon("unknown", Session(2))
    assert not peer.superseded
    view = state.view("dp")
    assert view is not None
    assert view.connected


def test_statuses_from_elsewhere_are_removed_and_replaced() -> None:
    state = FleetState(head=head(5), shares_statuses=True)
    state.learn([change(1, number=1, statuses={name: resource(name) for name in ("models/a", "models/b")})])
    state.learn([change(1, number=2, statuses={"models/a": None})])
    assert [status.name for status in state.resources("dp")] == ["models/b"]
    state.learn([change(1, number=3, replace=True, statuses={"models/c": resource("models/c")})])
    assert [status.name for status in state.resources("dp")] == ["models/c"]


def test_a_data_plane_that_connects_elsewhere_is_learned_while_the_memory_is_full() -> None:
    state = FleetState(head=head(5), shares_statuses=True, limits=FleetLimits(data_planes_max=1))
    state.remember(record("gone"))
    state.learn([change(1, number=1, connected=False)])
    assert list(state.ids) == ["gone"]
    state.learn([change(1, number=1, statuses={"models/a": resource("models/a")})])
    assert list(state.ids) == ["dp"]
    assert [shown.data_plane for shown in ReportedStatuses(state).of("models/a")] == ["dataPlanes/dp"]
