"""API keys on a real cluster: two ingress replicas share one limit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from broadsheet import Client
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("keys"))
    running.start()
    yield running
    running.stop()


def ask(stack: Stack, key: str = "") -> httpx.Response:
    """Ask over a new connection, so that either ingress replica may get it."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{stack.url}/v1/chat/completions", json=BODY, headers=headers, timeout=120)


def test_keys_let_in_limit_and_are_revoked(stack: Stack) -> None:
    with Client(stack.controlplane_address) as client:
        client.register_model("m", spec={"engine": {"kind": "SIMULATED"}, "scaling": {"min_replicas": 1}})
        until(lambda: ask(stack).status_code == 200, 120, "an answer without a key")

        alice = client.create_api_key("alice", allowed_served_names=["m"], requests_per_minute=10)
        client.wait_for_revision(alice.catalog_revision, timeout_s=30)
        assert ask(stack).status_code == 401
        first = ask(stack, alice.key)
        assert (first.status_code, first.headers["x-ratelimit-limit-requests"]) == (200, "10")

        passed = 1
        for _ in range(40):
            passed += ask(stack, alice.key).status_code == 200
        time.sleep(3)  # by now both replicas know what the other has let through
        later = [ask(stack, alice.key).status_code for _ in range(8)]
        # At most what both buckets held, and afterwards no more than the buckets gain in these
        # seconds.
        assert 10 <= passed <= 22
        assert later.count(200) <= 2
        assert 429 in later

        revoked = client.revoke_api_key("alice")
        client.wait_for_revision(revoked.catalog_revision, timeout_s=30)
        assert ask(stack, alice.key).status_code == 401
        assert ask(stack).status_code == 401
