"""A scaling change on real Ray Serve keeps the running replicas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broadsheet import Client
from tests.e2e.real_model import ask
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def scaled(client: Client, stack: Stack) -> Iterator[str]:
    """A model with one running replica, deleted in the end."""
    spec = {"engine": {"kind": "SIMULATED"}, "resources": {"cpus": 0}, "scaling": {"min_replicas": 1}}
    client.register_model("scaled", spec=spec)
    until(lambda: len(stack.engine_replicas("scaled")) == 1, 60, "the first replica")
    assert "simulated answer" in ask(stack, "scaled")
    yield "scaled"
    client.delete_model("scaled", force=True)
    until(lambda: stack.engine_replicas("scaled") == [], 60, "the replicas to go")


def test_scaling_changes_keep_the_replicas_that_run(stack: Stack, client: Client, scaled: str) -> None:
    (first,) = stack.engine_replicas(scaled)
    applications = stack.applications().keys()

    # From a fixed number to a range with more, and back.
    client.update_model(scaled, scaling={"min_replicas": 2, "max_replicas": 3})
    until(lambda: len(stack.engine_replicas(scaled)) == 2, 60, "a second replica")
    assert first in stack.engine_replicas(scaled)
    until(lambda: client.get_model(scaled).statuses[0].status.ready_replicas == 2, 60, "two ready replicas")
    assert client.get_model(scaled).statuses[0].status.revision_number == 2
    assert "simulated answer" in ask(stack, scaled)

    client.update_model(scaled, scaling={"min_replicas": 1, "max_replicas": 1})
    until(lambda: len(stack.engine_replicas(scaled)) == 1, 60, "one of them to go")
    assert "simulated answer" in ask(stack, scaled)
    assert stack.applications().keys() == applications
