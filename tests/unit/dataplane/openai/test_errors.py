from __future__ import annotations

import inspect
import json
from collections import Counter

import pytest

from dataplane.openai import errors as openai_errors
from dataplane.openai.error_answers import answer_for, event_for
from dataplane.openai.errors import IngressError

EXAMPLES: list[IngressError] = [
    openai_errors.InvalidJson("invalid character (byte 3)"),
    openai_errors.BodyNotObject(),
    openai_errors.InvalidForm("it has more than one model"),
    openai_errors.InvalidParameter("limit", "'x'", "a whole number"),
    openai_errors.ModelMissing(),
    openai_errors.ModelNotString(),
    openai_errors.ApiKeyMissing(),
    openai_errors.ApiKeyInvalid(),
    openai_errors.ApiKeyExpired(),
    openai_errors.RequestsLimited(60, 1.0),
    openai_errors.TokensLimited(60, 1.0),
    openai_errors.ModelNotFound("x"),
    openai_errors.NotServedHere("m"),
    openai_errors.UnknownPath("GET", "/x"),
    openai_errors.MethodNotAllowed("PUT", "GET, HEAD"),
    openai_errors.BodyTooLarge(10),
    openai_errors.BodiesFull(1000, 10),
    openai_errors.BodiesOfCallerFull(1000, 10),
    openai_errors.HeadersTooLarge(10),
    openai_errors.TooManyHeaders(128),
    openai_errors.TooManyUnfinished(),
    openai_errors.BodyTimeout(1.5),
    openai_errors.UrlTooLong(10),
    openai_errors.HeadTimeout(1.5),
    openai_errors.InvalidHttp(),
    openai_errors.WebSocketsUnsupported(),
    openai_errors.TooManyConnections("this server", 10),
    openai_errors.NotReady(),
    openai_errors.ShuttingDown(),
    openai_errors.ModelFailed("m", reason="OUT_OF_MEMORY", message="no", retry_after_s=2.2),
    openai_errors.AdapterFailed.of("m:a", reason="ADAPTER_LOAD_FAILED", message="no", retry_after_s=2.2),
    openai_errors.QueueFull("m", 3),
    openai_errors.ColdStartTimeout("m", 600.0),
    openai_errors.StartQueuedTimeout("m", 600.0),
    openai_errors.Overloaded("m", 30.0),
    openai_errors.EngineUnreachable("m"),
    openai_errors.EngineBroke("m"),
    openai_errors.EngineSilent("m", 600.0),
    openai_errors.TaskUnsupported("m", "/v1/embeddings", ("generate",)),
    openai_errors.InternalError("id-1"),
]


def test_every_error_has_an_example_here() -> None:
    declared = {
        value
        for value in vars(openai_errors).values()
        if inspect.isclass(value) and issubclass(value, IngressError) and value is not IngressError
    }
    assert declared == {type(example) for example in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_body_has_openais_shape(error: IngressError) -> None:
    answer = answer_for(error)
    body = json.loads(answer.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    limits = {openai_errors.RequestsLimited: "requests", openai_errors.TokensLimited: "tokens"}
    usual = "invalid_request_error" if answer.status < 500 else "server_error"
    assert body["error"]["type"] == limits.get(type(error), usual)
    assert body["error"]["code"] == answer.code
    assert (b"content-type", b"application/json") in answer.headers
    assert (b"retry-after" in dict(answer.headers)) == (answer.status in (429, 503))


def test_each_error_has_its_own_code() -> None:
    # OpenAI has a single code for invalid keys, and a single one for rate limits.
    shared = {"invalid_api_key": 3, "rate_limit_exceeded": 2}
    assert Counter(answer_for(example).code for example in EXAMPLES) == {
        answer_for(example).code: shared.get(answer_for(example).code, 1) for example in EXAMPLES
    }


def test_an_unknown_model_is_answered_as_by_openai() -> None:
    answer = answer_for(openai_errors.ModelNotFound("gpt-9"))
    assert answer.status == 404
    assert json.loads(answer.body)["error"] == {
        "message": "The model `gpt-9` does not exist.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_a_name_of_a_megabyte_is_shortened() -> None:
    assert len(answer_for(openai_errors.ModelNotFound("x" * 10**6)).body) < 1000
    assert len(answer_for(openai_errors.UnknownPath("GET", "/x" * 10**6)).body) < 1000


@pytest.mark.parametrize(("retry_after_s", "shown"), [(0.0, b"1"), (0.2, b"1"), (2.2, b"3"), (60.0, b"60")])
def test_retry_after_is_rounded_up_and_at_least_one_second(retry_after_s: float, shown: bytes) -> None:
    error = openai_errors.ModelFailed("m", reason="R", message="", retry_after_s=retry_after_s)
    assert dict(answer_for(error).headers)[b"retry-after"] == shown


def test_a_wrong_method_is_answered_with_the_allowed_ones() -> None:
    answer = answer_for(openai_errors.MethodNotAllowed("PUT", "GET, HEAD"))
    assert dict(answer.headers)[b"allow"] == b"GET, HEAD"


def test_a_request_that_was_not_read_closes_the_connection() -> None:
    assert dict(answer_for(openai_errors.BodyTooLarge(1)).headers)[b"connection"] == b"close"
    assert b"connection" not in dict(answer_for(openai_errors.ModelMissing()).headers)


def test_anthropics_envelope_is_put_around_the_same_error() -> None:
    plain = json.loads(answer_for(openai_errors.ModelMissing()).body)
    assert json.loads(answer_for(openai_errors.ModelMissing(), anthropic=True).body) == {"type": "error"} | plain


def test_an_error_event_ends_a_cut_off_event_first() -> None:
    event = event_for(openai_errors.EngineBroke("m"))
    assert event.startswith(b"\n\ndata: {")
    assert event.endswith(b"}\n\n")
    assert b"event: error\n" in event_for(openai_errors.EngineBroke("m"), anthropic=True)


def test_a_failed_model_shows_the_engines_reason() -> None:
    error = openai_errors.ModelFailed(
        "smol", reason="ENGINE_ARGS_INVALID", message="unrecognized arguments: --warp 9", retry_after_s=1
    )
    assert str(error) == "The model `smol` failed to start: ENGINE_ARGS_INVALID: unrecognized arguments: --warp 9"
