"""What the `openai` package offers, on real vLLM through the ingress.

Model and adapter are registered already.
"""

from __future__ import annotations

import concurrent.futures
import json
import re

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from openai.types.shared_params import ResponseFormatJSONSchema

from broadsheet import Client
from dataplane.ingress.bodies.json_body import parse_json
from dataplane.ingress.bodies.splice import splice
from dataplane.ingress.tokens.usage_filter import UsageFilter
from dataplane.ingress.tokens.usage_request import ask_in_json
from tests.e2e.media import about, picture
from tests.e2e.real_model import CAPITAL, SEA, ask
from tests.e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CITY_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
CITY: ResponseFormatJSONSchema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA}}
WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_completions(stack: Stack) -> None:
    completion = stack.openai().completions.create(
        model="smollm2", prompt="The capital of France is", max_tokens=8, temperature=0
    )
    assert "Paris" in completion.choices[0].text
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8


def test_chat_stream_carries_the_asked_name_and_ends_with_usage(stack: Stack) -> None:
    chunks = list(
        stack.openai().chat.completions.create(
            model="smollm2:pirate",
            messages=CAPITAL,
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {chunk.model for chunk in chunks} == {"smollm2:pirate"}
    assert "Arr" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 5
    assert len(chunks) > 5


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("choices", [1, 2])
def test_a_stream_without_the_usage_that_the_ingress_asks_for_is_what_vllm_sends(
    stack: Stack, path: str, choices: int
) -> None:
    """The ingress asks for usage on behalf of keys with a limit of tokens."""
    prompt = {"messages": CAPITAL} if "chat" in path else {"prompt": "The capital of France is"}
    fields = {"model": "smollm2", "temperature": choices - 1, "seed": 7, "max_tokens": 8, "n": choices, "stream": True}
    body = json.dumps(fields | prompt).encode()
    edit, unasked = ask_in_json(path, parse_json(body))
    assert edit is not None
    asking = splice(body, [edit])
    assert isinstance(asking, bytes)
    headers = {"content-type": "application/json"}
    plain, asked = (
        httpx.post(stack.url + path, content=sent, headers=headers, timeout=120).content for sent in (body, asking)
    )
    taken = UsageFilter(unasked)
    assert b'"usage":{' in asked
    assert events(taken.feed(asked) + taken.end()) == events(plain)


def events(stream: bytes) -> list[bytes]:
    """The events of a stream, by choice, without what differs between two answers."""
    found = re.sub(rb'"id":"[^"]*"|"created":\d+', b"", stream).split(b"\n\n")
    return sorted(found, key=lambda event: re.findall(rb'"index":\d+', event))


def test_models_list_and_retrieve(stack: Stack) -> None:
    api = stack.openai()
    assert [model.id for model in api.models.list()] == ["smollm2", "smollm2:pirate"]
    card = api.models.retrieve("smollm2:pirate")
    assert (card.id, card.object) == ("smollm2:pirate", "model")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        api.models.retrieve("nobody")


def test_a_picture_is_refused_by_a_model_of_text(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError, match="not a multimodal model"):
        ask(stack, "smollm2", about(picture("red")))


def test_json_schema_shapes_the_answer(stack: Stack) -> None:
    answer = stack.openai().chat.completions.create(
        model="smollm2", messages=CAPITAL, response_format=CITY, temperature=0, max_tokens=64
    )
    made = json.loads(answer.choices[0].message.content or "")
    assert sorted(made) == ["city", "people"]
    assert isinstance(made["people"], int)


def test_required_tool_is_called_with_arguments_of_its_schema(stack: Stack) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = stack.openai().chat.completions.create(
        model="smollm2",
        messages=messages,
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=128,
    )
    call, *_ = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert list(json.loads(call.function.arguments)) == ["city"]


def test_logprobs_several_choices_stop_and_seed(stack: Stack) -> None:
    chat = stack.openai().chat.completions
    first = chat.create(model="smollm2", messages=CAPITAL, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3)
    logprobs = first.choices[0].logprobs
    assert logprobs is not None
    assert [len(token.top_logprobs) for token in logprobs.content or []] == [3, 3, 3, 3]

    several = chat.create(model="smollm2", messages=SEA, n=2, seed=7, temperature=1, max_tokens=8)
    again = chat.create(model="smollm2", messages=SEA, n=2, seed=7, temperature=1, max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1]
    assert [choice.message.content for choice in several.choices] == [c.message.content for c in again.choices]

    stopped = chat.create(model="smollm2", messages=CAPITAL, temperature=0, max_tokens=32, stop=["Paris"])
    assert stopped.choices[0].finish_reason == "stop"
    assert "Paris" not in (stopped.choices[0].message.content or "")


def test_responses_whole_and_streamed(stack: Stack) -> None:
    responses = stack.openai().responses
    whole = responses.create(
        model="smollm2", input="What is the capital of France?", temperature=0, max_output_tokens=16
    )
    assert whole.model == "smollm2"
    assert "Paris" in whole.output_text
    events = list(
        responses.create(model="smollm2:pirate", input="Who are you?", temperature=0, max_output_tokens=32, stream=True)
    )
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert "Arr" in "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_tokenize_and_messages(stack: Stack) -> None:
    tokens = httpx.post(f"{stack.url}/tokenize", json={"model": "smollm2", "prompt": "hello there"}).json()
    assert tokens["count"] == 2
    text = httpx.post(f"{stack.url}/detokenize", json={"model": "smollm2", "tokens": tokens["tokens"]}).json()
    assert text["prompt"] == "hello there"
    message = httpx.post(
        f"{stack.url}/v1/messages", json={"model": "smollm2:pirate", "messages": CAPITAL, "max_tokens": 16}, timeout=60
    ).json()
    assert "Arr" in message["content"][0]["text"]


def test_errors_are_those_that_the_package_documents(stack: Stack) -> None:
    chat = stack.openai().chat.completions
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        ask(stack, "nobody")
    with pytest.raises(openai.BadRequestError, match="context length"):
        chat.create(model="smollm2", messages=[{"role": "user", "content": "word " * 2000}], max_tokens=8)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.create(model="smollm2", messages=CAPITAL, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        stack.openai().embeddings.create(model="nobody", input="x")
    with pytest.raises(
        openai.NotFoundError, match="`smollm2` does not serve /v1/embeddings; its tasks are: generate"
    ) as no:
        stack.openai().embeddings.create(model="smollm2", input="x")
    assert (no.value.type, no.value.code) == ("invalid_request_error", "unsupported_task")


def test_overload_is_refused_with_a_time_to_retry(stack: Stack, client: Client) -> None:
    spec = {
        "engine": {"kind": "KIND_SIMULATED", "args": {"tokens_per_second": 5}},
        "admission": {"max_ongoing_requests": 1, "max_queued_requests": 1, "queue_timeout": "1s"},
        "scaling": {"max_replicas": 1},
    }
    client.register_model("narrow", spec=spec)
    client.wait_until_serving("narrow", timeout_s=30)
    ask(stack, "narrow")  # awake from here on

    def refusal(_: int) -> openai.APIStatusError | None:
        try:
            stack.openai().chat.completions.create(model="narrow", messages=CAPITAL, max_tokens=25)
        except openai.APIStatusError as error:
            return error
        return None

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        refusals = list(pool.map(refusal, range(12)))
    client.delete_model("narrow")
    assert None in refusals, "who had a place got an answer"
    refused = [error for error in refusals if error is not None]
    assert len(refused) >= 8, "two places, and two that wait, on two ingress replicas"
    for error in refused:
        assert isinstance(error, openai.RateLimitError | openai.InternalServerError)
        assert int(error.response.headers["retry-after"]) > 0


def test_work_stops_when_the_client_leaves(stack: Stack) -> None:
    value = stack.engine_metrics("models/smollm2")
    assert value("vllm:num_requests_running") == 0
    stream = stack.openai().chat.completions.create(
        model="smollm2", messages=SEA, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    assert value("vllm:num_requests_running") == 1
    before = value("vllm:generation_tokens_total")
    stream.close()
    until(lambda: value("vllm:num_requests_running") == 0, 5, "the engine to drop the request")
    assert value("vllm:generation_tokens_total") - before < 600, "it was dropped, not finished"


def test_the_load_of_an_engine_is_logged_and_can_be_scraped(stack: Stack) -> None:
    groups = httpx.get(f"{stack.url}/metrics/engines").raise_for_status().json()
    [labels] = [group["labels"] for group in groups if group["labels"]["model"] == "smollm2"]
    page = httpx.get(stack.url + labels["__metrics_path__"]).raise_for_status().text
    for metric in (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "time_to_first_token_seconds_bucket",
    ):
        assert f"\nvllm:{metric}{{" in page
    log = stack.directory / "dataplane.log"
    until(
        lambda: re.search(r"engine_load .*running_requests=\d", log.read_text()) is not None,
        25,
        "vLLM's log of its load",
    )
