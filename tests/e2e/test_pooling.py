"""Embeddings, scores and ranks from real vLLM: the small model as a pooling model."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.real_model import CAPITAL, ask
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ENGINE = {
    "kind": "KIND_VLLM",
    "args": {
        "runner": "pooling",
        "convert": "embed",
        "enforce_eager": True,
        "max_model_len": 512,
        "kv_cache_memory_bytes": 1 << 28,
        "dtype": "float32",
    },
}
HELLO, SEA = "hello there", "the deep blue sea is full of fish"
DIMENSIONS = 576
MODEL = "org/embedder"
"""A served name that differs from the engine's own."""


@pytest.fixture(scope="module", autouse=True)
def embedder(stack: Stack, smollm2: Path) -> Iterator[None]:
    """The model, deleted at the end of this module: memory is shared with other tests."""
    with stack.client() as client:
        client.register_model(
            "embedder", served_name=MODEL, spec={"source": {"uri": smollm2.as_uri()}, "engine": ENGINE}
        )
        client.wait_until_serving("embedder", timeout_s=30)
        yield
        client.delete_model("embedder")
        until(lambda: stack.engine_replicas("embedder") == [], 60, "the engine to end")


def post(stack: Stack, path: str, **body: object) -> dict[str, Any]:
    answer = httpx.post(f"{stack.url}{path}", json={"model": MODEL, **body}, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / math.hypot(*left) / math.hypot(*right)


def test_it_is_listed_with_its_task_before_it_runs(stack: Stack) -> None:
    listed = stack.openai().models.retrieve(MODEL).to_dict()
    assert (listed["task"], listed["state"], listed["max_model_len"]) == ("embed", "IDLE", 512)


def test_equal_texts_have_equal_embeddings(stack: Stack) -> None:
    # The package asks for base64 by default, and decodes it.
    made = stack.openai().embeddings.create(model=MODEL, input=[HELLO, HELLO, SEA])
    assert made.model == MODEL
    assert [item.index for item in made.data] == [0, 1, 2]
    first, again, other = [item.embedding for item in made.data]
    assert len(first) == DIMENSIONS
    assert cosine(first, again) == pytest.approx(1, abs=1e-4)
    assert cosine(first, other) < 0.95
    assert made.usage.prompt_tokens == made.usage.total_tokens > 3

    floats = stack.openai().embeddings.create(model=MODEL, input=HELLO, encoding_format="float")
    assert cosine(floats.data[0].embedding, first) == pytest.approx(1, abs=1e-4)
    assert stack.openai().models.retrieve(MODEL).to_dict()["state"] == "READY"


def test_base64_is_the_floats_bytes(stack: Stack) -> None:
    encoded = post(stack, "/v1/embeddings", input=HELLO, encoding_format="base64")["data"][0]["embedding"]
    assert len(base64.b64decode(encoded, validate=True)) == 4 * DIMENSIONS


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores_are_cosines(stack: Stack, path: str) -> None:
    scored = post(stack, path, text_1=HELLO, text_2=[HELLO, SEA])
    assert (scored["object"], scored["model"]) == ("list", MODEL)
    same, other = [item["score"] for item in scored["data"]]
    assert same == pytest.approx(1, abs=1e-4)
    assert other < 0.95
    assert scored["usage"]["prompt_tokens"] > 3


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_ranks_begin_with_the_most_alike(stack: Stack, path: str) -> None:
    ranked = post(stack, path, query=HELLO, documents=[SEA, HELLO], top_n=2)
    assert ranked["model"] == MODEL
    assert [item["index"] for item in ranked["results"]] == [1, 0]
    assert [item["document"]["text"] for item in ranked["results"]] == [HELLO, SEA]
    assert ranked["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-4)
    assert ranked["usage"]["total_tokens"] > 3


def test_coheres_embeddings(stack: Stack) -> None:
    made = post(stack, "/v2/embed", texts=[HELLO, HELLO], embedding_types=["float"])
    first, again = made["embeddings"]["float"]
    assert len(first) == DIMENSIONS
    assert cosine(first, again) == pytest.approx(1, abs=1e-4)


def test_its_tokens_are_counted(stack: Stack) -> None:
    tokens = post(stack, "/tokenize", prompt=HELLO)
    assert tokens["count"] == len(tokens["tokens"]) > 1


def test_what_it_does_not_do_is_said_in_openais_shape(stack: Stack) -> None:
    with pytest.raises(
        openai.NotFoundError, match=f"`{MODEL}` does not serve /v1/chat/completions; its tasks are: .*embed"
    ):
        ask(stack, MODEL, CAPITAL)
    answer = httpx.post(f"{stack.url}/v1/messages", json={"model": MODEL, "max_tokens": 1, "messages": CAPITAL})
    assert (answer.status_code, answer.json()["type"]) == (404, "error")
    assert answer.json()["error"]["code"] == "unsupported_task"
    with pytest.raises(openai.BadRequestError, match="512"):
        stack.openai().embeddings.create(model=MODEL, input=SEA * 200)
