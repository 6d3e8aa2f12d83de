"""Warming on real Ray Serve: a model starts without a request, stays, and ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broadsheet import Client
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def idle(client: Client, stack: Stack) -> Iterator[str]:
    """A model at zero, deleted in the end."""
    spec = {
        "engine": {"kind": "SIMULATED"},
        "resources": {"cpus": 0},
        "scaling": {"min_replicas": 0, "downscale_to_zero_delay": "1s"},
    }
    client.register_model("warmed", spec=spec)
    client.wait_until_serving("warmed", timeout_s=30)
    yield "warmed"
    client.delete_model("warmed")
    until(lambda: stack.engine_replicas("warmed") == [], 60, "the replicas to go")


def test_a_warmed_model_is_ready_without_a_request_and_goes_when_that_is_over(
    stack: Stack, client: Client, idle: str
) -> None:
    assert stack.engine_replicas(idle) == []
    client.warm_model(idle, duration_s=600)
    client.wait_until_serving(idle, require_ready=True, timeout_s=60)
    (replica,) = stack.engine_replicas(idle)

    # Many times its idle time has passed.
    client.warm_model(idle, duration_s=5)
    assert stack.engine_replicas(idle) == [replica]
    until(lambda: not any(idle in name for name in stack.applications()), 60, "the application to go")
    client.wait_until_serving(idle, timeout_s=30)  # IDLE again
