"""`scaling.idle: SLEEP` on real Ray Serve: replicas sleep, wake, and are evicted.

The engines are SIMULATED, and refuse every request while they sleep. vLLM has no sleep mode on
CPUs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from broadsheet import Client
from tests.e2e.real_model import ask
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

_NUMBERS = itertools.count(1)
"""Numbers for the models' ids: the id of a deleted model is not free again."""


def sleeping_spec(memory_bytes: int) -> dict[str, Any]:
    return {
        "engine": {"kind": "SIMULATED"},
        "resources": {"cpus": 0, "memory_bytes": memory_bytes},
        "scaling": {"min_replicas": 0, "downscale_to_zero_delay": "1s", "idle": "SLEEP"},
    }


@pytest.fixture
def most_memory(stack: Stack) -> int:
    """More than half of the memory that Ray can allocate, in bytes. Nothing is really allocated."""
    return stack.memory_bytes() * 6 // 10


@pytest.fixture
def sleeper(client: Client, stack: Stack, most_memory: int) -> Iterator[str]:
    """A model that holds most of the memory and has gone to sleep, deleted in the end."""
    model = f"sleeper-{next(_NUMBERS)}"
    client.register_model(model, spec=sleeping_spec(most_memory))
    client.wait_until_serving(model, timeout_s=30)
    assert "simulated answer" in ask(stack, model)
    until(lambda: sleeps(client, model), 30, "it to sleep")
    yield model
    client.delete_model(model)
    until(lambda: stack.engine_replicas(model) == [], 60, "the replicas to go")


def sleeps(client: Client, model: str) -> bool:
    return client.get_model(model).statuses[0].status.reason == "ASLEEP"


def test_a_sleeper_keeps_its_replica_and_answers_again(stack: Stack, client: Client, sleeper: str) -> None:
    replicas = stack.engine_replicas(sleeper)
    assert len(replicas) == 1
    for _ in range(3):
        assert "simulated answer" in ask(stack, sleeper)
        until(lambda: sleeps(client, sleeper), 30, "it to sleep again")
    assert stack.engine_replicas(sleeper) == replicas


def test_a_sleeper_gives_way_to_a_model_that_needs_its_room(
    stack: Stack, client: Client, sleeper: str, most_memory: int
) -> None:
    client.register_model("other", spec=sleeping_spec(most_memory))
    try:
        client.wait_until_serving("other", timeout_s=30)
        assert "simulated answer" in ask(stack, "other")
        assert stack.engine_replicas(sleeper) == []
        # The first model starts again, and the other is evicted when it is idle.
        assert "simulated answer" in ask(stack, sleeper)
        until(lambda: stack.engine_replicas("other") == [], 30, "the other to go")
    finally:
        client.delete_model("other")
        until(lambda: stack.engine_replicas("other") == [], 60, "the replicas to go")
