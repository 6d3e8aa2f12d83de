"""The applications of a data plane and the events that change them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from dataplane.agent.giving_up import Failures
from dataplane.agent.ledger.application import ApplicationState, FirstReplica, StartFailed
from dataplane.agent.ledger.lifecycle import ROUTINGS, STAGES, Event, Ignored, Stage, follow, follow_step
from dataplane.agent.ledger.reports import Reports, ReportUpdate
from dataplane.agent.serve_api import ServeState, ServeStatus
from dataplane.agent.situation import Application
from dataplane.relay.messages import ApplicationRecord, EngineReport, IngressReport, SleepOrder
from dataplane.relay.topics import engine_of

_UNSETTLED = frozenset({Stage.REQUESTED, Stage.ADOPTED, Stage.STARTING, Stage.DELETING})


@dataclass(slots=True)
class Applications:
    """The state of each application. Times are seconds since the epoch.

    The methods up to `serve_reported` are events: each follows the tables of `lifecycle`. They
    raise `IllegalTransition` for a step of the agent that the application's state does not allow.
    The methods from `names` on are queries and change nothing.
    """

    failures: Failures
    _states: dict[str, ApplicationState] = field(default_factory=dict)
    """By name. A state is replaced, never changed."""
    _engines: Reports[EngineReport] = field(default_factory=Reports)
    """By `{application}/{replica id}`."""

    # -- the agent's own steps ---------------------------------------------------------------------

    def deployed(self, record: ApplicationRecord) -> None:
        """The agent is about to deploy an application."""
        stage = self._first_stage(record, Event.DEPLOYED)
        self._states[record.name] = ApplicationState(
            record=record, stage=stage, known_since=record.created_at, deployed_at=record.created_at
        )

    def adopted(self, record: ApplicationRecord, sleep_order: SleepOrder, now: float) -> None:
        """The agent has found the record of an application that an earlier agent deployed."""
        stage = self._first_stage(record, Event.ADOPTED)
        state = ApplicationState(record=record, stage=stage, known_since=now, sleep_order=sleep_order)
        self._states[record.name] = state

    def taken_on(self, name: str, now: float) -> None:
        """The call that deploys an application has returned."""
        self._states[name] = replace(self._step(name, Event.TAKEN_ON), call_ended_at=now)

    def refused(self, name: str, *, reason: str, message: str, now: float) -> None:
        """The call that deploys an application has failed, which gives the application up."""
        self.failed(name, reason=reason, message=message, now=now)
        self._states[name] = replace(self._states[name], call_ended_at=now)

    def rescaled(self, record: ApplicationRecord) -> ApplicationRecord | None:
        """The scaling of an application was updated in place.

        Args:
            record: As it was before the call that updates it, with the new scaling.

        Returns:
            Its changed record; None: the application is gone.
        """
        state = self._states.get(record.name)
        if state is None:
            return None
        changed = replace(record, placed=state.record.placed)
        self._states[record.name] = replace(state, record=changed)
        return changed

    def sleep_ordered(self, name: str, *, asleep: bool) -> SleepOrder:
        """The replicas of an application are about to be ordered to sleep or to wake."""
        state = self._states[name]
        order = SleepOrder(state.sleep_order.sequence + 1, asleep)
        self._states[name] = replace(state, sleep_order=order)
        return order

    def adapters_published(self, names: Iterable[str], catalog_revision: int) -> None:
        """The replicas of these applications were given the adapter list of that revision."""
        for name in names:
            self._states[name] = replace(self._states[name], adapters_revision=catalog_revision)

    def joined(self, name: str) -> None:
        """The new activation sends requests to an application."""
        state = self._states[name]
        routing = follow_step(ROUTINGS, name, state.routing, Event.JOINED)
        self._states[name] = replace(state, routing=routing, left_sequence=0, left_at=None)

    def left(self, name: str, sequence: int, now: float) -> None:
        """The new activation, of that sequence, no longer sends requests to an application."""
        state = self._states[name]
        routing = follow_step(ROUTINGS, name, state.routing, Event.LEFT)
        self._states[name] = replace(state, routing=routing, left_sequence=sequence, left_at=now)

    def deleted(self, name: str) -> None:
        """The agent is about to request the deletion of an application."""
        self._states[name] = self._step(name, Event.DELETED)

    # -- what others report ------------------------------------------------------------------------

    def engines_reported(self, update: ReportUpdate[EngineReport], now: float) -> None:
        """Replicas have reported. An application becomes ready when its first replica answers."""
        changes = self._engines.observe(update, now)
        for key, report in sorted(changes.renewed.items()):
            name, replica = engine_of(key)
            state = self._after(name, Event.READY)
            if state is not None:
                first = FirstReplica(replica_id=replica, engine_start_s=report.start_s, weights_s=report.weights_s)
                self._states[name] = replace(state, ready_at=now, first_replica=first, failure=None)
                self.failures.started(name)

    def ingresses_reported(self, reports: Iterable[IngressReport]) -> None:
        """Ingress replicas have reported how long the first answer after a cold start took."""
        by_first_replica = {
            state.first_replica.replica_id: name for name, state in self._states.items() if state.first_replica
        }
        first_bytes = (usage.first_byte for report in reports for usage in report.models.values())
        for first_byte in first_bytes:
            name = by_first_replica.get(first_byte.replica_id) if first_byte else None
            if first_byte is not None and name is not None:
                state = self._states[name]
                longest_s = max(state.first_token_s or 0.0, first_byte.seconds)
                self._states[name] = replace(state, first_token_s=longest_s)

    def placed(self, name: str) -> ApplicationRecord | None:
        """Ray has found room for a replica of an application.

        Returns:
            Its changed record; None: nothing changes.
        """
        state = self._states.get(name)
        if state is None or state.record.placed:
            return None
        record = replace(state.record, placed=True)
        self._states[name] = replace(state, record=record)
        return record

    def failed(self, name: str, *, reason: str, message: str, now: float) -> bool:
        """An application could not start.

        Args:
            name: Of the application.
            reason: UPPER_SNAKE.
            message: The words of the engine or of Ray Serve.
            now: Seconds since the epoch.

        Returns:
            Whether it is given up. Otherwise the failure changes nothing.
        """
        state = self._after(name, Event.FAILED)
        if state is None:
            return False
        self._states[name] = replace(state, failure=StartFailed(reason=reason, message=message))
        self.failures.give_up(name, state.record.model, reason=reason, message=message, now=now)
        return True

    def serve_reported(self, statuses: Mapping[str, ServeStatus], asked_at: float, now: float) -> tuple[str, ...]:
        """Ray Serve has listed its applications.

        Args:
            statuses: All applications of models, by name.
            asked_at: When Ray Serve was asked.
            now: Seconds since the epoch.

        Returns:
            Names of the applications that are given up because of it.
        """
        given_up = []
        for name, state in list(self._states.items()):
            status = statuses.get(name)
            if status is None or not state.is_covered_by_answer(asked_at):
                continue
            has_failed = status.state is ServeState.FAILED
            if has_failed and self.failed(name, reason=status.reason, message=status.message, now=now):
                given_up.append(name)
            else:
                self._states[name] = replace(state, serve_message=status.message)
        return tuple(given_up)

    def gone(self, name: str) -> None:
        """Ray Serve no longer lists an application: its replicas are gone with it."""
        if self._after(name, Event.GONE) is None:
            return
        del self._states[name]
        self._engines.forget(f"{name}/")

    # -- queries -----------------------------------------------------------------------------------

    def names(self) -> Set[str]:
        """Names of all applications."""
        return frozenset(self._states)

    def state(self, name: str) -> ApplicationState | None:
        """An application, as it is now."""
        return self._states.get(name)

    def missing_in(self, statuses: Mapping[str, ServeStatus], asked_at: float) -> tuple[str, ...]:
        """Names of the applications that Ray Serve had taken on and no longer lists.

        Args:
            statuses: Ray Serve's answer.
            asked_at: When Ray Serve was asked.
        """
        return tuple(
            name
            for name, state in self._states.items()
            if name not in statuses and state.is_covered_by_answer(asked_at)
        )

    def without_adapters_of(self, catalog_revision: int) -> Mapping[str, str]:
        """By name: the model of each application that lacks the adapter list of that revision."""
        return {
            name: state.record.model
            for name, state in self._states.items()
            if state.adapters_revision != catalog_revision
        }

    def is_settled(self) -> bool:
        """Whether no application is starting or being deleted."""
        return all(state.stage not in _UNSETTLED for state in self._states.values())

    def any_asleep(self) -> bool:
        """Whether some application was ordered to sleep."""
        return any(state.sleep_order.asleep for state in self._states.values())

    def engines(self, now: float) -> Mapping[str, Mapping[str, EngineReport]]:
        """Reports of the live engine replicas, by application and replica id."""
        found: dict[str, dict[str, EngineReport]] = defaultdict(dict)
        for key, report in self._engines.live(now).items():
            name, replica = engine_of(key)
            found[name][replica] = report
        return dict(found)

    def as_planned_from(self, in_use: Mapping[str, int], now: float, drain_s: float) -> Mapping[str, Application]:
        """The applications as the reconciler sees them, by name.

        Args:
            in_use: By application: requests that it is answering.
            now: Seconds since the epoch.
            drain_s: How long requests may drain after an application has left the activation.
        """
        engines = self.engines(now)
        found = {
            name: state.application(engines.get(name, {}), in_use=in_use.get(name, 0), now=now, drain_s=drain_s)
            for name, state in self._states.items()
        }
        return MappingProxyType(found)

    # -- transitions -------------------------------------------------------------------------------

    def _after(self, name: str, event: Event) -> ApplicationState | None:
        """The application in its next stage; None: the event is ignored."""
        state = self._states.get(name)
        after = follow(STAGES, name, state.stage if state else Stage.ABSENT, event)
        return None if state is None or isinstance(after, Ignored) else replace(state, stage=after)

    def _step(self, name: str, event: Event) -> ApplicationState:
        """The application in the stage after a step of the agent."""
        state = self._states.get(name)
        stage = follow_step(STAGES, name, state.stage if state else Stage.ABSENT, event)
        assert state is not None, "an absent application takes only the first step"
        return replace(state, stage=stage)

    def _first_stage(self, record: ApplicationRecord, event: Event) -> Stage:
        state = self._states.get(record.name)
        return follow_step(STAGES, record.name, state.stage if state else Stage.ABSENT, event)
