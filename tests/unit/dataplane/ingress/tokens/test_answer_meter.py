"""Token usage is found in the bytes of an answer, however they are split."""

from __future__ import annotations

import json

import pytest

from dataplane.ingress.tokens.answer_meter import AnswerMeter

CHAT = b'{"id":"x","choices":[{"message":{"content":"\\"usage\\": 7"}}],"usage":{"prompt_tokens":3,"total_tokens":10}}'
CHAT_STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\ndata: [DONE]\n\n'
)
MESSAGES = b'{"type":"message","usage":{"input_tokens":5,"output_tokens":6}}'
MESSAGES_STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":9}}\n\n'
)
RESPONSES_STREAM = b'data: {"type":"response.completed","response":{"id":"r","usage":{"total_tokens":21}}}\r\n\r\n'
SILENT_STREAM = b'data: {"choices":[{"delta":{}}]}\n\n' * 5
COHERE = b'{"usage":{"billed_units":{"input_tokens":1},"tokens":{"input_tokens":4,"output_tokens":8}}}'
COHERE_STREAM = (
    b'data: {"type":"content-delta","delta":{"message":{}}}\n\n'
    b'data: {"type":"message-end","delta":{"usage":{"tokens":{"input_tokens":4,"output_tokens":8}}}}\n\n'
)
CHAT_STREAM_OF_TWO = (
    b'data: {"choices":[{"index":0}],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
    b'data: {"choices":[{"index":1}],"usage":{"prompt_tokens":3,"completion_tokens":6}}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":10,"total_tokens":13}}\n\n'
    b"data: [DONE]\n\n"
)
MESSAGES_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'
RESPONSES_DELTA = b'event: x\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
TRANSCRIPTION_EVENT = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":120,"completion_tokens":2}}\n\n'
PROMPT = 1000
"""What the prompt is estimated at."""


def meter(*, streams_events: bool, is_audio: bool = False) -> AnswerMeter:
    return AnswerMeter(streams_events=streams_events, is_audio=is_audio, prompt_tokens=lambda: PROMPT)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("answer", "streams_events", "tokens"),
    [
        (CHAT, False, 10),
        (CHAT_STREAM, True, 7),
        (MESSAGES, False, 11),
        (MESSAGES_STREAM, True, 14),
        (RESPONSES_STREAM, True, 21),
        (COHERE, False, 12),
        (COHERE_STREAM, True, 12),
        (CHAT_STREAM_OF_TWO, True, 13),
        (SILENT_STREAM, True, PROMPT + 5),
        (b'{"message":"usage","usage":"none"}', False, 0),
        (b'{"usage":{"total_tokens":"many"}}', False, 0),
        (b'{"text":"\\"usage\\""', False, 0),
        (b"", False, 0),
        (b'data: "usage" {\n\n', True, PROMPT + 1),
    ],
)
def test_usage_is_found(answer: bytes, streams_events: bool, tokens: int, size: int) -> None:
    metered = meter(streams_events=streams_events)
    for start in range(0, len(answer), size):
        metered.feed(answer[start : start + size])
    metered.end()
    assert metered.tokens() == tokens


@pytest.mark.parametrize(
    ("begun", "tokens"),
    [
        (b"", PROMPT),
        (b'data: {"choices":[{"index":0,"delta":{}}]}\n\n' * 3, PROMPT + 3),
        (CHAT_STREAM_OF_TWO[: CHAT_STREAM_OF_TWO.index(b'data: {"choices":[]')], 3 + 4 + 6),
        (MESSAGES_STREAM[: MESSAGES_STREAM.index(b"event: message_delta")] + MESSAGES_DELTA * 7, 5 + 1 + 7),
        (RESPONSES_DELTA * 4, PROMPT + 4),
        (TRANSCRIPTION_EVENT, 120 + 2),
    ],
)
def test_a_stream_that_breaks_off_counts_its_prompt_and_what_came(begun: bytes, tokens: int) -> None:
    metered = meter(streams_events=True)
    metered.feed(begun)
    assert metered.tokens() == tokens


def test_a_body_that_breaks_off_counts_the_prompt_and_its_bytes() -> None:
    metered = meter(streams_events=False)
    metered.feed(CHAT[:80])
    assert metered.tokens() == PROMPT + 20


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"text":"four byte","usage":{"type":"duration","seconds":7}}', 700 + 11 // 4),
        (b'{"text":"four","language":"en","duration":2.5,"segments":[]}', 250 + 6 // 4),
        (b'{"text":"four","duration":"2.5"}', 250 + 6 // 4),
        (b'{"text":"a translation"}', PROMPT + 15 // 4),
        (b"some plain text", PROMPT + 15 // 4),
    ],
)
def test_a_transcription_counts_its_seconds_and_its_text(answer: bytes, tokens: int) -> None:
    metered = meter(streams_events=False, is_audio=True)
    metered.feed(answer)
    metered.end()
    assert metered.tokens() == tokens


@pytest.mark.parametrize(
    "end",
    [
        b',"usage":{"prompt_tokens":40,"total_tokens":42}}',
        b',"usage":{"prompt_tokens_details":{"cached":{}},"prompt_tokens":40,"completion_tokens":2},"prompt_logprobs":[{}]}',
    ],
)
def test_the_usage_of_a_large_body_is_read_from_its_end_and_little_is_kept(end: bytes) -> None:
    metered = meter(streams_events=False)
    text = json.dumps({"text": ['"usage":{"total_tokens":0}'] * 10}).encode()
    for part in (b'{"data":[', b"0.1," * 500_000, text, b"]", end):
        metered.feed(part)
        assert len(metered._pending) <= 64 * 1024
    metered.end()
    assert metered.tokens() == 42


def test_a_body_that_is_too_large_to_keep_counts_by_its_bytes() -> None:
    metered = meter(streams_events=False)
    for _ in range(20):
        metered.feed(b"x" * 1024 * 1024)
    metered.end()
    assert metered.tokens() == 5 * 1024 * 1024
