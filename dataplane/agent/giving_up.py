"""When an application that cannot start is given up, and when it is tried again. Pure.

An application is given up at its first start failure: the engine reported why it could not start,
Ray Serve reported DEPLOY_FAILED, or Ray Serve refused the deployment. It is then deleted at once,
because Ray Serve never heals such an application. It is deployed again after a backoff that doubles
with each failure, for as long as the model is wanted. An application that has answered once is
never given up: Ray Serve replaces its replicas. The ledger applies these rules
(`ledger.applications`, by the table in `ledger.lifecycle`), and the reconciler plans the deletion
and the next try.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dataplane.agent.desired import application_name
from dataplane.snapshot.snapshot import Snapshot

_DOUBLINGS_MAX = 32
"""More doublings than any wait needs. It bounds the power while a model keeps failing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long a given-up application waits, in seconds."""

    first_s: float
    """Wait after the first failure. It doubles with each further failure."""
    max_s: float
    """Longest wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an application was given up, and when it is tried again."""

    count: int
    """Failed starts in a row."""
    reason: str
    """UPPER_SNAKE."""
    message: str
    """For operators, in the words of the engine or of Ray Serve."""
    retry_at: float
    """Seconds since the epoch."""


def next_failure(previous: Failure | None, *, reason: str, message: str, now: float, backoff: Backoff) -> Failure:
    """The failure that follows `previous`, with twice its wait."""
    count = previous.count + 1 if previous else 1
    wait_s = min(backoff.first_s * 2 ** min(count - 1, _DOUBLINGS_MAX), backoff.max_s)
    return Failure(count=count, reason=reason, message=message, retry_at=now + wait_s)


@dataclass(slots=True)
class Failures:
    """The applications that were given up, and have neither started nor become unwanted since."""

    backoff: Backoff
    _by_application: dict[str, Failure] = field(default_factory=dict)
    _models: dict[str, str] = field(default_factory=dict)
    """By application: resource name of its model. It has the same keys as `_by_application`."""

    def give_up(self, application: str, model: str, *, reason: str, message: str, now: float) -> None:
        """Count a failed start."""
        previous = self._by_application.get(application)
        failure = next_failure(previous, reason=reason, message=message, now=now, backoff=self.backoff)
        self._by_application[application] = failure
        self._models[application] = model

    def started(self, application: str) -> None:
        """Forget the failed starts of an application that has now answered."""
        self._by_application.pop(application, None)
        self._models.pop(application, None)

    def forget_unwanted(self, snapshot: Snapshot) -> None:
        """Forget applications that no entry of `snapshot` asks for any more."""
        for application, model in list(self._models.items()):
            names = (model, *snapshot.revisions.get(model, ()))
            entries = (snapshot.deployable[name] for name in names if name in snapshot.deployable)
            if all(application_name(entry) != application for entry in entries):
                self.started(application)

    def by_application(self) -> Mapping[str, Failure]:
        """A copy that does not change."""
        return MappingProxyType(dict(self._by_application))
