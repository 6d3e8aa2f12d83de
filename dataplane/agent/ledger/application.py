"""What the ledger knows of one application. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.agent.ledger.lifecycle import Routing, Stage
from dataplane.agent.situation import Application, Phase
from dataplane.relay.messages import ApplicationRecord, EngineReport, SleepOrder
from dataplane.snapshot.activation import Endpoint

TAKEN_ON_S = 10.0
"""How long before its death an agent may have written the record of an application that Ray Serve
lists only now, in seconds."""

_PHASES: Mapping[Stage, Phase] = {
    Stage.REQUESTED: Phase.STARTING,
    Stage.ADOPTED: Phase.STARTING,
    Stage.STARTING: Phase.STARTING,
    Stage.RUNNING: Phase.RUNNING,
    Stage.FAILED: Phase.FAILED,
    Stage.DELETING: Phase.DELETING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstReplica:
    """The replica that answered first, and how its engine started."""

    replica_id: str
    engine_start_s: float
    """How long its engine took to start, in seconds."""
    weights_s: float | None
    """How long the engine read its weights, in seconds; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailed:
    """Why an application could not start."""

    reason: str
    """UPPER_SNAKE."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationState:
    """One application. Times are seconds since the epoch."""

    record: ApplicationRecord
    """What an agent needs to adopt it. The relay holds the same record."""
    stage: Stage
    known_since: float
    """When this agent deployed or adopted it. The record's `created_at` may be on the clock of
    another node, so it is not compared with this agent's."""
    deployed_at: float | None = None
    """When this agent began to deploy it. None: an earlier agent did."""
    call_ended_at: float | None = None
    """When the call that deploys it ended. None: it has not, or an earlier agent made it."""
    ready_at: float | None = None
    """When a replica first answered."""
    first_replica: FirstReplica | None = None
    """Set together with `ready_at`."""
    first_token_s: float | None = None
    """Longest wait of a request that the first replica answered first, in seconds."""
    failure: StartFailed | None = None
    """Set while the stage is FAILED or the DELETING that follows."""
    serve_message: str = ""
    """What Ray Serve says it waits for."""
    sleep_order: SleepOrder = field(default_factory=SleepOrder)
    """What its replicas were ordered last."""
    routing: Routing = Routing.NEVER
    left_sequence: int = 0
    """Sequence of the first activation without it; 0 unless the routing is LEFT."""
    left_at: float | None = None
    """When that activation was made; None unless the routing is LEFT."""
    adapters_revision: int | None = None
    """Catalog revision of the adapter list that its replicas were given last."""

    def is_covered_by_answer(self, asked_at: float) -> bool:
        """Whether an answer of Ray Serve says something about this application.

        Ray Serve does not know an application before it has taken it on. Later, an answer that does
        not list the application means that it is gone.

        Args:
            asked_at: When Ray Serve was asked.
        """
        if self.stage is Stage.DELETING:
            return True
        if self.deployed_at is None:
            return asked_at > self.known_since + TAKEN_ON_S
        return self.call_ended_at is not None and asked_at > self.call_ended_at

    def application(
        self, reports: Mapping[str, EngineReport], *, in_use: int, now: float, drain_s: float
    ) -> Application:
        """The application as the reconciler sees it.

        Args:
            reports: Of its live replicas, by replica id.
            in_use: Requests that it is answering, over all ingress replicas.
            now: Seconds since the epoch.
            drain_s: How long requests may drain after it has left the activation.
        """
        asleep = self.sleep_order.asleep
        follows_order = {replica: report.sleep_order == self.sleep_order for replica, report in reports.items()}
        # A replica that has not followed its latest order yet may be about to sleep.
        endpoints = () if asleep or self.stage is Stage.DELETING else self._endpoints(reports, follows_order)
        return Application(
            name=self.record.name,
            model=self.record.model,
            revision_number=self.record.revision_number,
            phase=_PHASES[self.stage],
            created_at=self.known_since,
            endpoints=endpoints,
            secret=self.record.secret,
            replica_bounds=self.record.replica_bounds,
            ready_at=self.ready_at,
            in_use=in_use,
            left_sequence=self.left_sequence,
            reason=self.failure.reason if self.failure else "",
            message=self.failure.message if self.failure else self.serve_message,
            drain_overdue=self.left_at is not None and now - self.left_at > drain_s,
            asleep=asleep,
            all_asleep=asleep and all(follows_order.values()),
            placed=self.record.placed or self.ready_at is not None,
            resources=self.record.resources,
        )

    @staticmethod
    def _endpoints(reports: Mapping[str, EngineReport], chosen: Mapping[str, bool]) -> tuple[Endpoint, ...]:
        return tuple(
            Endpoint(replica_id=replica, url=report.url, further_urls=report.further_urls)
            for replica, report in sorted(reports.items())
            if chosen[replica]
        )
