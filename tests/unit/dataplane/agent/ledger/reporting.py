"""A ledger, and the records and reports that go into it, for the tests of the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.agent.giving_up import Backoff
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.ledger.reports import ReportUpdate
from dataplane.agent.situation import Application, Situation
from dataplane.relay.messages import (
    ApplicationRecord,
    EngineReport,
    FirstByte,
    IngressReport,
    ModelUsageReport,
    SleepOrder,
)
from dataplane.snapshot.snapshot import Position
from tests import views

NOW = 1_000_000.0
DRAIN_S = 10.0
BACKOFF = Backoff(first_s=10, max_s=100)
AWAKE = SleepOrder()
POSITION = Position(store_uid="s", revision=1, digest=b"\1" * 32)
OTHER = Position(store_uid="s", revision=2, digest=b"\2" * 32)


def record(name: str = "app", *, model: str = "models/m", created_at: float = NOW - 100) -> ApplicationRecord:
    return ApplicationRecord(
        name=name,
        model=model,
        revision_number=1,
        entry=b"",
        replica_bounds=b"",
        secret="s",
        created_at=created_at,
    )


def empty() -> Ledger:
    return Ledger.empty(drain_s=DRAIN_S, backoff=BACKOFF)


def adopted(*, sleep_order: SleepOrder = AWAKE) -> Ledger:
    """A ledger after a restart of the agent that finds the application `app`."""
    ledger = empty()
    ledger.adopt([record()], {"app": sleep_order}, None, NOW)
    return ledger


def deployed(*, created_at: float = NOW) -> Ledger:
    """A ledger of an agent that has just deployed the application `app`."""
    ledger = empty()
    ledger.applications.deployed(record(created_at=created_at))
    return ledger


def engine(
    url: str = "http://127.0.0.1:1", *, reported_at: float = NOW, sleep_order: SleepOrder = AWAKE
) -> EngineReport:
    return EngineReport(
        url=url,
        in_flight=0,
        adapters=(),
        failed_adapters={},
        reported_at=reported_at,
        start_s=30.5,
        weights_s=2.25,
        sleep_order=sleep_order,
        model="models/m",
        adapters_tried=0,
    )


def ingress(
    *,
    in_flight: int = 0,
    idle_s: float = 0.0,
    in_app: int = 0,
    sequence: int = 1,
    position: Position = POSITION,
    reported_at: float = NOW,
    first_byte: FirstByte | None = None,
) -> IngressReport:
    usage = ModelUsageReport(in_flight=in_flight, idle_s=idle_s, first_byte=first_byte)
    return IngressReport(
        position=position,
        activation_sequence=sequence,
        models={"models/m": usage},
        applications={"app": in_app} if in_app else {},
        reported_at=reported_at,
    )


def report_engines(
    ledger: Ledger, reports: Mapping[str, EngineReport], now: float = NOW, *, removed: frozenset[str] = frozenset()
) -> None:
    """Pass on reports of engine replicas, by `{application}/{replica id}`."""
    update = ReportUpdate(epoch="first", changed=reports, removed=removed)
    ledger.applications.engines_reported(update, now)


def report_ingresses(ledger: Ledger, reports: Mapping[str, IngressReport], now: float = NOW) -> None:
    """Pass on reports of ingress replicas, by replica id."""
    ledger.ingresses_reported(ReportUpdate(epoch="first", changed=reports), now)


def situation(ledger: Ledger, now: float = NOW) -> Situation:
    return ledger.situation(views.snapshot(), now=now, time_of_day=now, free={})


def application(ledger: Ledger, now: float = NOW) -> Application:
    """The application `app` as the reconciler sees it."""
    return situation(ledger, now).applications["app"]
