"""Tells the ledger what the replicas and Ray Serve report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.ledger.reports import ReportUpdate
from dataplane.agent.serve_api import ServeApi, ServeState, ServeStatus
from dataplane.agent.steady_clock import Clock
from dataplane.relay.messages import Message, ReplicaPlaced, StartFailure, Wake
from dataplane.relay.relay import Changes, Relay
from dataplane.relay.topics import Key, Topic

_SERVE_UNSETTLED_S = 1.0
"""Time between two questions to Ray Serve while an application starts or is deleted."""
_SERVE_SETTLED_S = 10.0
"""The same while none does. Each question costs Ray Serve's controller milliseconds for each
application."""
_REPORTS_PACE_S = 0.05
"""Shortest time between two looks at the reports. Hundreds of replicas then cost 20 looks a
second."""

_log = structlog.get_logger("dataplane.agent.observer")


class Observer:
    """Follows the relay and Ray Serve. `adopt` first, then one task for each other method."""

    def __init__(
        self, ledger: Ledger, relay: Relay, serve: ServeApi, *, clock: Clock, on_change: Callable[[], None]
    ) -> None:
        """
        Args:
            ledger: What is observed is written to it.
            relay: Where replicas report.
            serve: Ray Serve.
            clock: The time of everything that is observed, from `steady_clock`.
            on_change: Called after each observation.
        """
        self._ledger = ledger
        self._relay = relay
        self._serve = serve
        self._clock = clock
        self._on_change = on_change
        self._reports = relay.watcher([Topic.ENGINES, Topic.INGRESSES], pace_s=_REPORTS_PACE_S)

    async def adopt(self) -> None:
        """Take over what an earlier agent left, and what its replicas report.

        The reports come before the first plan: without them, it would take running applications for
        starting ones, and send them no requests.
        """
        left = await self._relay.read([Topic.APPLICATIONS, Topic.SLEEP_ORDERS, Topic.ACTIVATION])
        applications = left.values(Topic.APPLICATIONS)
        self._ledger.adopt(
            applications.values(),
            left.values(Topic.SLEEP_ORDERS),
            left.values(Topic.ACTIVATION).get(Key(Topic.ACTIVATION).name),
            self._clock(),
        )
        # This process puts them from now on when the relay has lost them.
        for name, record in applications.items():
            state = self._ledger.applications.state(name)
            assert state is not None, "just adopted"
            keys = {Key(Topic.APPLICATIONS, name): record, Key(Topic.SLEEP_ORDERS, name): state.sleep_order}
            await self._relay.put(keys)
        self._take_reports(await self._reports.next())

    async def follow_reports(self) -> None:
        """Tell the ledger what engine and ingress replicas report. Ends by being cancelled."""
        while True:
            self._take_reports(await self._reports.next())
            self._on_change()

    def _take_reports(self, changes: Changes) -> None:
        now = self._clock()
        self._ledger.applications.engines_reported(_update(changes, Topic.ENGINES), now)
        self._ledger.ingresses_reported(_update(changes, Topic.INGRESSES), now)

    async def receive_messages(self) -> None:
        """Tell the ledger what replicas send to the agent. Ends by being cancelled."""
        inbox = self._relay.inbox()
        while True:
            for message in await inbox.next():
                await self._take_message(message)
            self._on_change()

    async def _take_message(self, message: Message) -> None:
        applications, now = self._ledger.applications, self._clock()
        match message:
            case Wake():
                self._ledger.usage.requested(message.model, now)
            case StartFailure():
                name = message.application
                if applications.failed(name, reason=message.reason, message=message.message, now=now):
                    _log.warning("application_failed", application=name, reason=message.reason, message=message.message)
            case ReplicaPlaced():
                changed = applications.placed(message.application)
                if changed is not None:
                    await self._relay.put({Key(Topic.APPLICATIONS, changed.name): changed})

    async def observe_serve(self) -> None:
        """Ask Ray Serve again and again which applications there are. Ends by being cancelled."""
        while True:
            asked_at = self._clock()
            statuses = await asyncio.to_thread(self._serve.observe)
            await self._take_statuses(statuses, asked_at)
            self._on_change()
            settled = self._ledger.applications.is_settled()
            await asyncio.sleep(_SERVE_SETTLED_S if settled else _SERVE_UNSETTLED_S)

    async def _take_statuses(self, statuses: Mapping[str, ServeStatus], asked_at: float) -> None:
        applications = self._ledger.applications
        for name in applications.serve_reported(statuses, asked_at, self._clock()):
            status = statuses[name]
            _log.warning("application_failed", application=name, reason=status.reason, message=status.message)
        unknown = statuses.keys() - applications.names()
        for name in applications.missing_in(statuses, asked_at):
            # The ledger forgets it last. Until then no plan deploys an application of that name,
            # whose keys these would be too.
            topics = (Topic.APPLICATIONS, Topic.ADAPTERS, Topic.SLEEP_ORDERS)
            await self._relay.put({}, removed=[Key(topic, name) for topic in topics])
            applications.gone(name)
            _log.info("application_gone", application=name)
        for name in unknown:
            if statuses[name].state is not ServeState.DELETING:
                _log.warning("unknown_application_deleted", application=name)
                await asyncio.to_thread(self._serve.delete, name)


def _update(changes: Changes, topic: Topic) -> ReportUpdate[Any]:
    return ReportUpdate(
        epoch=changes.epoch,
        is_complete=changes.is_complete,
        changed=changes.values(topic),
        removed=frozenset(key.name for key in changes.removed if key.topic is topic),
    )
