"""Errors as events, in the form of each route."""

from __future__ import annotations

import json

import pytest

from dataplane.ingress.streams.error_event import error_event
from dataplane.openai import error_answers
from dataplane.openai import errors as openai_errors
from dataplane.openai.routes import INFERENCE_ROUTES

QUEUE_FULL = openai_errors.QueueFull("m", 3)
CONTENT = {"message": str(QUEUE_FULL), "type": "server_error", "param": None, "code": "queue_full"}


def event(path: str, body: bytes) -> tuple[list[str], dict[str, object], str]:
    """The lines before `data`, what it holds, and what follows the event."""
    first, _, rest = error_event(body, INFERENCE_ROUTES[path]).decode().partition("\n\n")
    *names, data = first.split("\n")
    assert data.startswith("data: ")
    return names, json.loads(data.removeprefix("data: ")), rest


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/audio/transcriptions"])
def test_openais_streams_end_with_an_error_and_their_mark(path: str) -> None:
    body = error_answers.answer_for(QUEUE_FULL).body
    assert event(path, body) == ([], {"error": CONTENT}, "data: [DONE]\n\n")


def test_anthropics_streams_end_with_an_error_event() -> None:
    body = error_answers.answer_for(QUEUE_FULL, anthropic=True).body
    assert event("/v1/messages", body) == (["event: error"], {"type": "error", "error": CONTENT}, "")


def test_streams_of_responses_end_with_an_error_event_of_their_own() -> None:
    expected = {"type": "error", "code": "queue_full", "message": str(QUEUE_FULL), "param": None, "sequence_number": 0}
    body = error_answers.answer_for(QUEUE_FULL).body
    assert event("/v1/responses", body) == (["event: error"], expected | {"error": CONTENT}, "")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(
    "body", [b'{\n  "error": {\n "message": "too long",\n "code": 400}}', b"oops\ndata: x", b"", b'{"error":"odd"}']
)
def test_whatever_an_engine_says_is_one_event(path: str, body: bytes) -> None:
    _, said, _ = event(path, body)
    assert "error" in said
