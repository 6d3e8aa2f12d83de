"""Failed starts and their backoff."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.giving_up import Backoff, Failure, next_failure
from tests.unit.dataplane.agent.reconciler.situations import NOW


def test_backoff_doubles_up_to_its_maximum() -> None:
    def after(previous: Failure | None) -> Failure:
        return next_failure(previous, reason="R", message="", now=NOW, backoff=Backoff(first_s=10, max_s=100))

    failure, waits = after(None), []
    for _ in range(6):
        waits.append(failure.retry_at - NOW)
        failure = after(failure)
    assert waits == [10, 20, 40, 80, 100, 100]
    assert after(replace(failure, count=10**6)).retry_at == NOW + 100
