"""Ray Serve without Ray: it takes calls and lists what was deployed."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.agent.resources import Resources
from dataplane.agent.serve_api import ServeApi, ServeState, ServeStatus
from dataplane.relay.messages import ApplicationRecord


class ServeWorld(ServeApi):
    """Ray Serve, with a state that a test sets and reads."""

    def __init__(self) -> None:
        self.statuses: dict[str, ServeStatus] = {}
        self.records: dict[str, ApplicationRecord] = {}
        self.deleted: list[str] = []
        self.ingress: set[str] = set()
        """The ingress replicas that live."""
        self.stopped_ingress: list[str] = []
        self.refuses = False
        """Whether calls that deploy fail."""

    def deploy(self, record: ApplicationRecord) -> None:
        if self.refuses:
            raise RuntimeError("no controller")
        self.records[record.name] = record
        self.statuses.setdefault(record.name, ServeStatus(state=ServeState.STARTING, message=""))

    def delete(self, application: str) -> None:
        self.deleted.append(application)

    def observe(self) -> Mapping[str, ServeStatus]:
        return dict(self.statuses)

    def ingress_replicas(self) -> frozenset[str]:
        return frozenset(self.ingress)

    def stop_ingress_replica(self, replica_id: str) -> None:
        self.stopped_ingress.append(replica_id)
        self.ingress.discard(replica_id)

    def free_resources(self) -> Resources:
        return {}
