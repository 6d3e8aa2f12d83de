"""Many registered models on real Ray Serve: only those in use cost anything."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Iterator

import httpx
import pytest

from broadsheet import Client
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODELS = 200
ASKED = 20
AT_A_TIME = 10
SPEC = {
    "engine": {"kind": "SIMULATED"},
    "resources": {"cpus": 0},
    "scaling": {"max_replicas": 1, "downscale_to_zero_delay": "2s"},
}


@pytest.fixture
def many(client: Client, stack: Stack) -> Iterator[list[str]]:
    """Registered models, deleted in the end."""
    names = [f"many-{number:03}" for number in range(MODELS)]
    registered: list[str] = []

    def register(name: str) -> int:
        revision = client.register_model(name, spec=SPEC).catalog_revision
        registered.append(name)
        return revision

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        try:
            client.wait_for_revision(max(pool.map(register, names)), timeout_s=60)
            yield names
        finally:
            list(pool.map(lambda name: client.delete_model(name, force=True), registered))
    until(lambda: not applications(stack), 60, "the applications to go")


def applications(stack: Stack) -> set[str]:
    """The applications of these models."""
    return {name for name in stack.applications() if name.startswith("broadsheet-many-")}


def listed(stack: Stack) -> list[str]:
    """All ids of `/v1/models`, read page by page."""
    found: list[str] = []
    query: dict[str, str | int] = {"limit": 100}
    while True:
        page = httpx.get(f"{stack.url}/v1/models", params=query).raise_for_status().json()
        found += [model["id"] for model in page["data"]]
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


def test_models_cost_an_application_only_while_they_are_used(stack: Stack, many: list[str]) -> None:
    assert [name for name in listed(stack) if name.startswith("many-")] == many
    assert applications(stack) == set()

    def ask(model: str) -> str:
        messages = [{"role": "user", "content": "there?"}]
        body = {"model": model, "messages": messages}
        answer = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    asked = random.Random(0).sample(many, ASKED)
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        answers = list(pool.map(ask, asked))
    assert answers == [f"simulated answer of {model} to: there?" for model in asked]
    until(lambda: not applications(stack), 60, "the applications to go")
