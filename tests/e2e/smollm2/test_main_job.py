"""The main job on real vLLM: register, push, serve from zero.

The tests run in order and share a cluster.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from broadsheet import Client
from broadsheet.errors import ServingFailed
from broadsheet.types import ColdStart
from protocol.adapters import safetensors_header
from tests.adapter_directories import safetensors_bytes
from tests.e2e.listeners import outward_listeners
from tests.e2e.real_model import CAPITAL, ENGINE, ENGINE_ARGS, SEA, STATE, ask, register_smollm2, state_of
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_registered_model_and_adapter_are_listed_and_nothing_runs(
    stack: Stack, client: Client, smollm2: Path, pirate: Path
) -> None:
    register_smollm2(client, smollm2)
    client.register_adapter("smollm2", "pirate", source=pirate)
    client.wait_until_serving("models/smollm2/adapters/pirate", timeout_s=30)

    assert [model.id for model in stack.openai().models.list()] == ["smollm2", "smollm2:pirate"]
    assert stack.readyz() == 200
    assert stack.engine_replicas("smollm2") == []
    assert sorted(stack.applications()) == ["broadsheet-agent", "broadsheet-ingress"]


def test_first_request_starts_the_model_and_is_answered(stack: Stack) -> None:
    assert "Paris" in ask(stack, "smollm2")
    assert len(stack.engine_replicas("smollm2")) == 1


def test_vllm_too_listens_on_loopback_only(stack: Stack) -> None:
    assert outward_listeners(stack, with_process="ray::ServeReplica:broadsheet-smollm2") == set()


def test_the_start_from_zero_is_timed(client: Client) -> None:
    def cold_start() -> ColdStart:
        (status,) = client.get_model("smollm2").statuses
        return status.status.cold_start

    until(lambda: cold_start().HasField("first_token"), 10, "the report of the first request's wait")
    seen = cold_start()
    parts = (seen.first_token, seen.start, seen.engine_start, seen.weights_load)
    seconds = [part.ToTimedelta().total_seconds() for part in parts]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] > 0


def test_adapter_shapes_the_answer_and_the_base_stays_as_it_was(stack: Stack) -> None:
    assert "Arr" in ask(stack, "smollm2:pirate")
    assert "Paris" in ask(stack, "smollm2")
    assert "Arr" in ask(stack, "smollm2:pirate", SEA)
    assert "Arr" not in ask(stack, "smollm2", SEA)


def test_responses_name_the_snapshot_and_the_revision_that_answered(stack: Stack, client: Client) -> None:
    revision = next(iter(client.list_snapshots())).position.revision
    raw = stack.openai().chat.completions.with_raw_response.create(model="smollm2", messages=CAPITAL, max_tokens=1)
    assert raw.headers["x-broadsheet-revision"] == str(revision)
    assert raw.headers["x-broadsheet-model"] == "models/smollm2/revisions/1"
    assert raw.headers["x-request-id"]


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
    too_large = ENGINE | {"args": {**ENGINE_ARGS, "kv_cache_memory_bytes": 1 << 46}}
    client.register_model("oversized", spec={"source": {"uri": smollm2.as_uri()}, "engine": too_large})
    client.wait_until_serving("oversized", timeout_s=30)

    for model, reason, words in (
        ("missing", "SOURCE_NOT_FOUND", "no such directory"),
        ("misspelt", "ENGINE_ARGS_INVALID", "no_such_argument': vLLM has no such argument"),
        ("oversized", "OUT_OF_MEMORY", "less than requested memory for kv"),
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
    streamed: list[ChatCompletionChunk] = []

    def stream() -> None:
        chunks = stack.openai().chat.completions.create(
            model="smollm2",
            messages=CAPITAL,
            max_tokens=200,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        streamed.extend(chunks)

    reader = threading.Thread(target=stream)
    reader.start()
    until(lambda: len(streamed) > 2, 30, "the stream to begin")
    client.register_adapter("smollm2", "corsair", source=source, served_name="corsair")
    client.wait_until_serving("models/smollm2/adapters/corsair", timeout_s=30)
    started = time.monotonic()
    assert "Arr" in ask(stack, "corsair")
    assert time.monotonic() - started < 30
    until(lambda: state_of(client, "models/smollm2/adapters/corsair") == STATE.RESOURCE_STATE_READY, 10, "READY")
    shutil.rmtree(source)  # a loaded adapter does not need its source
    assert "Arr" in ask(stack, "corsair", SEA)

    revision = client.delete_adapter("models/smollm2/adapters/corsair").catalog_revision
    assert client.wait_for_revision(revision, timeout_s=30).active_everywhere
    with pytest.raises(openai.NotFoundError):
        ask(stack, "corsair")
    reader.join(120)
    assert not reader.is_alive()
    *_, last, usage = streamed
    assert last.choices[0].finish_reason == "length", "the stream ended as it should"
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 200
    assert stack.engine_replicas("smollm2") == replicas
    # The replica has unloaded the adapter. It is registered again and its files are removed, so
    # nothing is left to answer with.
    log = stack.dataplane.log
    until(lambda: "adapter_unloaded" in log.read_text(errors="replace"), 20, "the replica to forget the adapter")


def test_adapter_files_changed_after_registration_are_not_served(
    stack: Stack, client: Client, pirate: Path, tmp_path: Path
) -> None:
    source = tmp_path / "changed"
    shutil.copytree(pirate, source)
    weights = source / "adapter_model.safetensors"
    # Not the bytes of the adapter that is loaded already: those the replica would rightly serve
    # from its own copy.
    weights.write_bytes(weights.read_bytes()[:-2] + b"\1\1")
    client.register_adapter("smollm2", "changed", source=source)
    client.wait_until_serving("models/smollm2/adapters/changed", require_ready=True, timeout_s=30)
    # The running engine has loaded it at once. Undeleted, it has to be fetched again.
    unloaded = stack.dataplane.log.read_text(errors="replace").count("adapter_unloaded")
    client.delete_adapter("models/smollm2/adapters/changed")
    log = stack.dataplane.log
    until(lambda: log.read_text(errors="replace").count("adapter_unloaded") > unloaded, 20, "it to be unloaded")
    weights.write_bytes(weights.read_bytes()[:-2] + b"\2\2")
    revision = client.undelete_adapter("models/smollm2/adapters/changed").catalog_revision
    assert client.wait_for_revision(revision, timeout_s=30).active_everywhere
    with pytest.raises(openai.InternalServerError, match="ADAPTER_DIGEST_MISMATCH"):
        ask(stack, "smollm2:changed")
    until(lambda: state_of(client, "models/smollm2/adapters/changed") == STATE.RESOURCE_STATE_FAILED, 10, "FAILED")
    client.register_adapter("smollm2", "changed", source=source)  # meant: a new revision
    client.wait_until_serving("models/smollm2/adapters/changed", timeout_s=30)
    ask(stack, "smollm2:changed")
    client.delete_adapter("models/smollm2/adapters/changed")


def with_module(adapter: Path, directory: Path, module: str) -> Path:
    """A copy of an adapter that has matrices for one more module of layer 0."""
    shutil.copytree(adapter, directory)
    file = directory / "adapter_model.safetensors"
    content = file.read_bytes()
    begin = safetensors_header.LENGTH_BYTES
    end = begin + safetensors_header.header_bytes(content[:begin], len(content))
    shapes = {
        name: tensor.shape for name, tensor in safetensors_header.parse(content[begin:end], len(content) - end).items()
    }
    rank = json.loads((directory / "adapter_config.json").read_bytes())["r"]
    path = f"base_model.model.model.layers.0.{module}"
    more = {f"{path}.lora_A.weight": (rank, 576), f"{path}.lora_B.weight": (576, rank)}
    file.write_bytes(safetensors_bytes({**shapes, **more}))
    return directory


def test_an_adapter_that_fails_in_the_engine_fails_alone_and_says_why(
    stack: Stack, client: Client, pirate: Path, tmp_path: Path
) -> None:
    replicas = stack.engine_replicas("smollm2")
    name = "models/smollm2/adapters/odd"
    # Only the engine knows how a base names its experts, so registration takes matrices for them.
    odd = with_module(pirate, tmp_path / "odd", "mlp.experts.0.odd_proj")
    client.register_adapter("smollm2", "odd", source=odd)
    with pytest.raises(ServingFailed, match=r"expected target modules.*odd_proj") as caught:
        client.wait_until_serving(name, timeout_s=30)
    assert (caught.value.reason, caught.value.resource) == ("ADAPTER_LOAD_FAILED", name)
    (status,) = client.get_adapter(name).statuses
    assert (status.status.state, status.status.reason) == (STATE.RESOURCE_STATE_FAILED, "ADAPTER_LOAD_FAILED")
    assert "odd_proj" in status.status.message

    with pytest.raises(openai.InternalServerError, match=r"`smollm2:odd` could not be loaded.*<path>") as refused:
        ask(stack, "smollm2:odd")
    assert refused.value.status_code == 503
    assert refused.value.code == "adapter_failed"
    assert int(refused.value.response.headers["retry-after"]) > 0
    assert str(tmp_path) not in str(refused.value)
    assert "Paris" in ask(stack, "smollm2")
    assert "Arr" in ask(stack, "smollm2:pirate")
    assert stack.engine_replicas("smollm2") == replicas

    client.register_adapter("smollm2", "odd", source=pirate)
    client.wait_until_serving(name, require_ready=True, timeout_s=30)
    assert "Arr" in ask(stack, "smollm2:odd")
    client.delete_adapter(name)


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
