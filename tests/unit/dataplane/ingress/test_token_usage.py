"""Token usage is found in the bytes of an answer, however they are split."""

from __future__ import annotations

import pytest

from dataplane.ingress.token_usage import TokenMeter

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


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("answer", "streams_events", "tokens"),
    [
        (CHAT, False, 10),
        (CHAT_STREAM, True, 7),
        (MESSAGES, False, 11),
        (MESSAGES_STREAM, True, 14),
        (RESPONSES_STREAM, True, 21),
        (SILENT_STREAM, True, 5),
        (b'{"message":"usage","usage":"none"}', False, 0),
        (b'{"usage":{"total_tokens":"many"}}', False, 0),
        (b'{"text":"\\"usage\\""', False, 0),
        (b"", False, 0),
        (b'data: "usage" {\n\n', True, 1),
    ],
)
def test_usage_is_found(answer: bytes, streams_events: bool, tokens: int, size: int) -> None:
    meter = TokenMeter(streams_events=streams_events)
    for start in range(0, len(answer), size):
        meter.feed(answer[start : start + size])
    assert meter.tokens() == tokens


def test_a_body_that_is_too_large_to_keep_counts_by_its_bytes() -> None:
    meter = TokenMeter(streams_events=False)
    for _ in range(20):
        meter.feed(b"x" * 1024 * 1024)
    assert meter.tokens() == 5 * 1024 * 1024
