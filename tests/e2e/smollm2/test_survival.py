"""What ends and comes back: idle models, the control plane, the agent, the data plane.

The model is deleted last.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import openai
import pytest

from broadsheet import Client, errors
from broadsheet.types import DataPlaneOutcome
from tests.e2e.asking import Asking
from tests.e2e.real_model import CAPITAL, STATE, ask, register_smollm2, state_of
from tests.e2e.stack import LIVENESS_TIMEOUT_S, Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_an_engine_that_hangs_is_replaced_and_nobody_else_notices(stack: Stack, client: Client) -> None:
    spec = {"engine": {"kind": "SIMULATED"}, "resources": {"cpus": 0}, "scaling": {"min_replicas": 1}}
    client.register_model("other", spec=spec)
    client.wait_until_serving("other", timeout_s=60, require_ready=True)
    before = stack.engine_replicas("smollm2")
    engine = stack.process("VLLM::EngineCore")
    with Asking(stack, "other") as other:
        stream = stack.openai().chat.completions.create(
            model="smollm2", messages=CAPITAL, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        engine.suspend()
        began = time.monotonic()
        with pytest.raises(openai.APIError) as caught:
            for _ in stream:
                pass
        ended_s = time.monotonic() - began
        # A request that has not begun waits for the next engine.
        assert "Paris" in ask(stack, "smollm2")
    assert type(caught.value) is openai.APIError, "an error event, where a cut would be an APIConnectionError"
    assert LIVENESS_TIMEOUT_S - 1 < ended_s < LIVENESS_TIMEOUT_S + 10
    assert not engine.is_running()
    assert (other.answered > 50, other.failures) == (True, [])
    until(lambda: len(stack.engine_replicas("smollm2")) == 1, 30, "one replica")
    assert stack.engine_replicas("smollm2") != before
    client.delete_model("other")


def test_an_idle_model_goes_and_comes_back_while_the_control_plane_is_gone(
    stack: Stack, client: Client, smollm2: Path
) -> None:
    before = stack.engine_replicas("smollm2")
    # A change of the idle time alone updates the running application in place.
    register_smollm2(client, smollm2, idle="2s")
    until(lambda: state_of(client, "models/smollm2") == STATE.RESOURCE_STATE_IDLE, 30, "the model to idle away")
    until(lambda: stack.engine_replicas("smollm2") == [], 60, "the replica to go")
    assert "smollm2" in [model.id for model in stack.openai().models.list()]
    assert client.wait_for_revision(register_smollm2(client, smollm2), timeout_s=30).active_everywhere
    stack.controlplane.kill(signal.SIGKILL)
    assert stack.readyz() == 200
    assert "Paris" in ask(stack, "smollm2")
    after = stack.engine_replicas("smollm2")
    assert len(after) == 1
    assert after != before
    assert "Arr" in ask(stack, "smollm2:pirate")


def test_agent_killed_requests_go_on_and_another_takes_over(stack: Stack) -> None:
    replicas = stack.engine_replicas("smollm2")
    agents = stack.applications()["broadsheet-agent"]
    stack.kill_replica("broadsheet-agent")
    assert "Paris" in ask(stack, "smollm2")
    until(lambda: stack.applications()["broadsheet-agent"] not in (agents, []), 60, "another agent")
    assert "Arr" in ask(stack, "smollm2:pirate")
    assert stack.engine_replicas("smollm2") == replicas


def stateless(models: httpx.Response) -> list[dict[str, object]]:
    """What `/v1/models` lists, without the states."""
    return [{name: value for name, value in model.items() if name != "state"} for model in models.json()["data"]]


def test_data_plane_restarted_without_control_plane_serves_the_same_catalog(stack: Stack) -> None:
    before = httpx.get(f"{stack.url}/v1/models")
    stack.dataplane.kill(signal.SIGTERM)
    assert stack.readyz() == 0
    stack.dataplane.start()
    stack.await_ready()
    after = httpx.get(f"{stack.url}/v1/models")
    assert stateless(after) == stateless(before)
    assert after.headers["x-broadsheet-revision"] == before.headers["x-broadsheet-revision"]
    assert "Arr" in ask(stack, "smollm2:pirate")


def test_control_plane_back_new_registration_arrives(stack: Stack) -> None:
    stack.controlplane.start()

    def registered() -> bool:
        try:
            with stack.client() as client:
                client.register_model("late", spec={"engine": {"kind": "KIND_SIMULATED"}})
        except errors.Unavailable:
            return False
        return True

    until(registered, 30, "the control plane")
    with stack.client() as client:
        client.wait_until_serving("late", timeout_s=60)
        revision = next(iter(client.list_snapshots())).position.revision
        waited = client.wait_for_revision(revision, timeout_s=30)
        assert [outcome.outcome for outcome in waited.outcomes] == [DataPlaneOutcome.OUTCOME_ACTIVE]
    assert "simulated answer of late" in ask(stack, "late")


def test_deleted_model_is_gone_and_its_replica_with_it(stack: Stack, client: Client) -> None:
    with pytest.raises(errors.FailedPrecondition, match="pirate"):
        client.delete_model("smollm2")
    revision = client.delete_model("smollm2", force=True).catalog_revision
    assert client.wait_for_revision(revision, timeout_s=30).active_everywhere
    with pytest.raises(openai.NotFoundError):
        ask(stack, "smollm2")
    until(lambda: stack.engine_replicas("smollm2") == [], 60, "the replica to go")
