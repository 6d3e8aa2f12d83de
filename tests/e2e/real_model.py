"""The real model of the end-to-end tests: how it is registered, asked, and looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from openai.types.chat import ChatCompletionMessageParam

from broadsheet import Client
from broadsheet.types import ResourceState
from tests.e2e.stack import Stack

ENGINE_ARGS: Mapping[str, object] = {
    "enforce_eager": True,
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 1 << 29,
    # With bfloat16, this small model answers differently on CPUs with AMX and without.
    "dtype": "float32",
}
ENGINE = {"kind": "KIND_VLLM", "args": ENGINE_ARGS}
ADAPTER_SLOTS = 2
CAPITAL: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
SEA: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name a colour."}]
STATE = ResourceState


def register_smollm2(client: Client, smollm2: Path, *, idle: str = "600s", **engine_args: object) -> int:
    """Register the real model, with further engine args; returns the catalog revision."""
    spec = {
        "source": {"uri": smollm2.as_uri()},
        "engine": ENGINE | {"args": {**ENGINE_ARGS, **engine_args}},
        "scaling": {"min_replicas": 0, "downscale_to_zero_delay": idle},
        "lora": {"max_adapters": ADAPTER_SLOTS, "max_rank": 8},
    }
    return client.register_model("smollm2", spec=spec).catalog_revision


def ask(stack: Stack, model: str, messages: list[ChatCompletionMessageParam] = CAPITAL) -> str:
    answer = stack.openai().chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=32)
    assert answer.model == model
    return answer.choices[0].message.content or ""


def state_of(client: Client, resource: str) -> ResourceState.ValueType:
    """The state that the data plane reports of a resource. An adapter without a report is IDLE."""
    for status in client.get_data_plane("local").resources:
        if status.name == resource:
            return status.state
    return STATE.RESOURCE_STATE_IDLE
