"""A canary, a revert and a fallback on real Ray Serve, with simulated engines, under load."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from broadsheet import Client
from broadsheet.types import ModelRevision, Rollout
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

POLICY = {"strategy": "CANARY", "steps": [{"percent": 50, "hold": "2s"}], "health_timeout": "60s"}


def register(client: Client, **args: object) -> ModelRevision:
    spec = {
        "engine": {"kind": "SIMULATED", "args": args},
        "resources": {"cpus": 0},
        "scaling": {"min_replicas": 0, "downscale_to_zero_delay": "60s"},
    }
    return client.register_model("rolling", spec=spec, rollout_policy=POLICY).model.revision


def rollout(client: Client) -> Rollout:
    return client.get_model("rolling").rollout


class Caller:
    """Asks without a pause, and counts answers by revision, and failures."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Caller:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        body = {"model": "rolling", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "stream": True}
        with httpx.Client(timeout=60) as http:
            while not self._stop.is_set():
                answer = http.post(f"{self._url}/v1/chat/completions", json=body)
                if answer.status_code == 200 and "[DONE]" in answer.text:
                    self.answers[answer.headers["x-broadsheet-model"].rpartition("/")[2]] += 1
                else:
                    self.failures.append(f"{answer.status_code} {answer.text[-300:]}")


@pytest.fixture
def cleaned_up(client: Client, stack: Stack) -> Iterator[None]:
    """Clean up the shared cluster."""
    yield
    for route in client.list_routes():
        client.delete_route(route.name)
    client.delete_model("rolling", force=True)
    until(lambda: not any("rolling" in name for name in stack.applications()), 60, "the applications to go")


@pytest.mark.usefixtures("cleaned_up")
def test_canary_completes_reverts_and_falls_back_without_a_failed_request(stack: Stack, client: Client) -> None:
    register(client, tokens_per_second=200)
    client.wait_until_serving("rolling", timeout_s=30)
    with Caller(stack.url) as caller:
        until(lambda: caller.answers["1"] > 0, 60, "the first answer")

        register(client, tokens_per_second=300)
        until(lambda: rollout(client).state == Rollout.STATE_COMPLETE, 60, "the canary to complete")
        seen = caller.answers["2"]
        until(lambda: caller.answers["2"] > seen + 20, 30, "answers of the new revision alone")
        assert len(stack.engine_replicas("rolling")) >= 1

        register(client, tokens_per_second=400, fail_start="no luck")
        until(lambda: rollout(client).state == Rollout.STATE_REVERTED, 60, "the broken canary to be reverted")
        assert rollout(client).reason == "ENGINE_START_FAILED"
        until(lambda: caller.answers["4"] > 20, 30, "answers under the number of the revert")
    assert caller.failures == []
    assert caller.answers["3"] == 0
    assert client.get_model("rolling").revision.number == 4

    # A route to the broken revision is answered by its fallback, and the headers say so.
    client.set_route(
        "chat",
        spec={
            "targets": [{"resource": "models/rolling/revisions/3"}],
            "fallbacks": [{"resource": "models/rolling", "conditions": ["UNAVAILABLE"]}],
        },
    )
    until(lambda: "chat" in [model.id for model in stack.openai().models.list()], 30, "the route to be listed")
    raw = stack.openai().chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": "hi"}], max_tokens=4
    )
    assert raw.headers["x-broadsheet-route"] == "routes/chat"
    assert raw.headers["x-broadsheet-model"] == "models/rolling/revisions/4"
    assert raw.parse().model == "chat"
