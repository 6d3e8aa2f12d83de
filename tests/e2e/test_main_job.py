"""The main job on real vLLM: register, push, serve from zero. The tests run in order and share one cluster."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from modelplane import Client, errors
from modelplane.types import DataPlaneOutcome, ResourceState
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ENGINE = {
    "kind": "KIND_VLLM",
    "args": {
        "enforce_eager": True,
        "max_model_len": 1024,
        "kv_cache_memory_bytes": 1 << 29,
        # In bfloat16 so small a model answers differently on CPUs with AMX and on those without.
        "dtype": "float32",
    },
}
CAPITAL: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
SEA: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name a colour."}]
STATE = ResourceState


def register_smollm2(client: Client, smollm2: Path, *, idle: str = "600s") -> int:
    """Register the real model; returns the catalog revision."""
    spec = {
        "source": {"uri": smollm2.as_uri()},
        "engine": ENGINE,
        "scaling": {"min_replicas": 0, "downscale_to_zero_delay": idle},
        "lora": {"max_adapters": 2, "max_rank": 8},
    }
    return client.register_model("smollm2", spec=spec).catalog_revision


def ask(stack: Stack, model: str, messages: list[ChatCompletionMessageParam] = CAPITAL) -> str:
    answer = stack.openai().chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=32)
    assert answer.model == model
    return answer.choices[0].message.content or ""


def state_of(client: Client, resource: str) -> ResourceState.ValueType:
    """What the one data plane says of a resource. Adapters that it leaves out are IDLE."""
    for status in client.get_data_plane("local").resources:
        if status.name == resource:
            return status.state
    return STATE.RESOURCE_STATE_IDLE


def test_registered_model_and_adapter_are_listed_and_nothing_runs(
    stack: Stack, client: Client, smollm2: Path, pirate: Path
) -> None:
    register_smollm2(client, smollm2)
    client.register_adapter("smollm2", "pirate", source=pirate)
    client.wait_until_serving("models/smollm2/adapters/pirate", timeout_s=30)

    assert [model.id for model in stack.openai().models.list()] == ["smollm2", "smollm2:pirate"]
    assert stack.readyz() == 200
    assert stack.engine_replicas("smollm2") == []
    assert sorted(stack.applications()) == ["modelplane-agent", "modelplane-ingress"]


def test_first_request_starts_the_model_and_is_answered(stack: Stack) -> None:
    assert "Paris" in ask(stack, "smollm2")
    assert len(stack.engine_replicas("smollm2")) == 1


def test_adapter_shapes_the_answer_and_the_base_stays_as_it_was(stack: Stack) -> None:
    assert "Arr" in ask(stack, "smollm2:pirate")
    assert "Paris" in ask(stack, "smollm2")
    assert "Arr" in ask(stack, "smollm2:pirate", SEA)
    assert "Arr" not in ask(stack, "smollm2", SEA)


def test_openai_package_completions_stream_and_models(stack: Stack) -> None:
    api = stack.openai()
    completion = api.completions.create(model="smollm2", prompt="The capital of France is", max_tokens=8, temperature=0)
    assert "Paris" in completion.choices[0].text
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8

    stream = api.chat.completions.create(
        model="smollm2:pirate",
        messages=CAPITAL,
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {"smollm2:pirate"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Arr" in text
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 5
    assert len(chunks) > 5

    card = api.models.retrieve("smollm2:pirate")
    assert (card.id, card.object) == ("smollm2:pirate", "model")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        api.models.retrieve("nobody")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        api.chat.completions.create(model="nobody", messages=CAPITAL)


def test_responses_name_the_snapshot_and_the_revision_that_answered(stack: Stack, client: Client) -> None:
    revision = next(iter(client.list_snapshots())).position.revision
    raw = stack.openai().chat.completions.with_raw_response.create(model="smollm2", messages=CAPITAL, max_tokens=1)
    assert raw.headers["x-modelplane-revision"] == str(revision)
    assert raw.headers["x-modelplane-model"] == "models/smollm2/revisions/1"
    assert raw.headers["x-request-id"]


def test_other_routes_of_vllm_answer_too(stack: Stack) -> None:
    response = stack.openai().responses.create(model="smollm2", input="Say hello.", max_output_tokens=8)
    assert response.model == "smollm2"
    tokens = httpx.post(f"{stack.url}/tokenize", json={"model": "smollm2", "prompt": "hello there"}).json()
    assert tokens["count"] == 2
    message = httpx.post(
        f"{stack.url}/v1/messages", json={"model": "smollm2:pirate", "messages": CAPITAL, "max_tokens": 16}, timeout=60
    ).json()
    assert "Arr" in message["content"][0]["text"]


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/version", "/docs", "/metrics/x"]
)
def test_routes_that_are_no_inference_are_not_forwarded(stack: Stack, path: str) -> None:
    answer = httpx.post(f"{stack.url}{path}", json={"model": "smollm2", "lora_name": "x", "lora_path": "/x"})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_models_that_cannot_start_fail_alone_and_say_why(stack: Stack, client: Client, smollm2: Path) -> None:
    before = stack.engine_replicas("smollm2")
    client.register_model("missing", spec={"source": {"uri": "file:///nowhere/at/all"}, "engine": ENGINE})
    unknown_args = {"kind": "KIND_VLLM", "args": {"no_such_argument": 1}}
    client.register_model("misspelt", spec={"source": {"uri": smollm2.as_uri()}, "engine": unknown_args})
    client.wait_until_serving("misspelt", timeout_s=30)

    for model, reason, words in (
        ("missing", "SOURCE_NOT_FOUND", "no such directory"),
        ("misspelt", "ENGINE_ARGS_INVALID", "unrecognized arguments: --no-such-argument"),
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            ask(stack, model)
        assert caught.value.status_code == 503
        assert reason in str(caught.value)
        assert words in str(caught.value)
        assert int(caught.value.response.headers["retry-after"]) > 0

        until(lambda model=model: state_of(client, f"models/{model}") == STATE.RESOURCE_STATE_FAILED, 10, "FAILED")  # type: ignore[misc]  # mypy does not infer lambdas with defaults
        status = client.get_model(model).statuses[0].status
        assert (status.reason, words in status.message) == (reason, True)

        assert stack.readyz() == 200
        assert "Paris" in ask(stack, "smollm2")
        again = time.monotonic()
        with pytest.raises(openai.InternalServerError, match=reason):
            ask(stack, model)
        assert time.monotonic() - again < 2, "a model that failed is answered for at once"
        client.delete_model(model)
    assert stack.engine_replicas("smollm2") == before


def test_adapter_comes_and_goes_while_its_base_streams(
    stack: Stack, client: Client, pirate: Path, tmp_path: Path
) -> None:
    replicas = stack.engine_replicas("smollm2")
    source = tmp_path / "corsair"
    shutil.copytree(pirate, source)
    streamed: list[str] = []

    def stream() -> None:
        chunks = stack.openai().chat.completions.create(
            model="smollm2", messages=CAPITAL, max_tokens=200, stream=True, extra_body={"ignore_eos": True}
        )
        streamed.extend(chunk.choices[0].finish_reason or "" for chunk in chunks)

    reader = threading.Thread(target=stream)
    reader.start()
    until(lambda: len(streamed) > 2, 30, "the stream to begin")
    client.register_adapter("smollm2", "corsair", source=source, served_name="corsair")
    client.wait_until_serving("models/smollm2/adapters/corsair", timeout_s=30)
    started = time.monotonic()
    assert "Arr" in ask(stack, "corsair")
    assert time.monotonic() - started < 30
    until(lambda: state_of(client, "models/smollm2/adapters/corsair") == STATE.RESOURCE_STATE_READY, 10, "READY")
    shutil.rmtree(source)  # what is loaded does not depend on where it came from
    assert "Arr" in ask(stack, "corsair", SEA)

    revision = client.delete_adapter("models/smollm2/adapters/corsair").catalog_revision
    assert client.wait_for_revision(revision, timeout_s=30).active_everywhere
    with pytest.raises(openai.NotFoundError):
        ask(stack, "corsair")
    reader.join(120)
    assert not reader.is_alive()
    assert streamed[-1] == "length", "the stream ended as it should"
    assert len(streamed) >= 200
    assert stack.engine_replicas("smollm2") == replicas
    # The replica has forgotten it: registered again from files that are gone, nothing is left to answer with.
    log = stack.dataplane.log
    until(lambda: "adapter_unloaded" in log.read_text(errors="replace"), 20, "the replica to forget the adapter")


def test_adapter_files_changed_after_registration_are_not_served(
    stack: Stack, client: Client, pirate: Path, tmp_path: Path
) -> None:
    source = tmp_path / "changed"
    shutil.copytree(pirate, source)
    weights = source / "adapter_model.safetensors"
    # Not the bytes of the adapter that is loaded already: those the replica would rightly serve from its own copy.
    weights.write_bytes(weights.read_bytes()[:-2] + b"\1\1")
    client.register_adapter("smollm2", "changed", source=source)
    client.wait_until_serving("models/smollm2/adapters/changed", timeout_s=30)
    weights.write_bytes(weights.read_bytes()[:-2] + b"\2\2")
    with pytest.raises(openai.InternalServerError, match="ADAPTER_DIGEST_MISMATCH"):
        ask(stack, "smollm2:changed")
    until(lambda: state_of(client, "models/smollm2/adapters/changed") == STATE.RESOURCE_STATE_FAILED, 10, "FAILED")
    client.register_adapter("smollm2", "changed", source=source)  # meant: a new revision
    client.wait_until_serving("models/smollm2/adapters/changed", timeout_s=30)
    ask(stack, "smollm2:changed")
    client.delete_adapter("models/smollm2/adapters/changed")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"not json", 400, "JSON"),
        (b"[1]", 400, "object"),
        (b"{}", 400, "model"),
        (b'{"model": 7}', 400, "model"),
        (b'{"model": "smollm2", "messages": "what"}', 400, "messages"),
        (b'{"model": "smollm2", "messages": [], "pad": "' + b"x" * (33 * 1024 * 1024) + b'"}', 413, "larger"),
    ],
)
def test_bad_bodies_get_clear_errors(stack: Stack, body: bytes, status: int, words: str) -> None:
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_idle_model_goes_and_the_next_request_brings_it_back(stack: Stack, client: Client, smollm2: Path) -> None:
    before = stack.engine_replicas("smollm2")
    # A change of the idle time alone is taken over in place.
    register_smollm2(client, smollm2, idle="2s")
    until(lambda: state_of(client, "models/smollm2") == STATE.RESOURCE_STATE_IDLE, 30, "the model to idle away")
    until(lambda: stack.engine_replicas("smollm2") == [], 60, "the replica to go")
    assert "smollm2" in [model.id for model in stack.openai().models.list()]
    register_smollm2(client, smollm2)
    assert "Paris" in ask(stack, "smollm2")
    after = stack.engine_replicas("smollm2")
    assert len(after) == 1
    assert after != before


def test_control_plane_killed_requests_go_on(stack: Stack) -> None:
    stack.controlplane.kill(signal.SIGKILL)
    assert stack.readyz() == 200
    assert "Paris" in ask(stack, "smollm2")
    assert "Arr" in ask(stack, "smollm2:pirate")


def test_agent_killed_requests_go_on_and_another_takes_over(stack: Stack) -> None:
    replicas = stack.engine_replicas("smollm2")
    agents = stack.applications()["modelplane-agent"]
    stack.kill_replica("modelplane-agent")
    assert "Paris" in ask(stack, "smollm2")
    until(lambda: stack.applications()["modelplane-agent"] not in (agents, []), 60, "another agent")
    assert "Arr" in ask(stack, "smollm2:pirate")
    assert stack.engine_replicas("smollm2") == replicas


def test_data_plane_restarted_without_control_plane_serves_the_same_catalog(stack: Stack) -> None:
    before = httpx.get(f"{stack.url}/v1/models")
    stack.dataplane.kill(signal.SIGTERM)
    assert stack.readyz() == 0
    stack.dataplane.start()
    stack.await_ready()
    after = httpx.get(f"{stack.url}/v1/models")
    assert after.json() == before.json()
    assert after.headers["x-modelplane-revision"] == before.headers["x-modelplane-revision"]
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
