"""The answers of the mock engine, as the bytes that it sends. Pure.

They have the form of vLLM's. A request names its answer in the text of its first message, as
`bench:NAME`, because that text passes through every subject unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

UNARY = "unary"
_TOKEN = " token"
_UNARY_TOKENS = 50
_SHOWN_BYTES = 500
"""Of an answer that is wrong."""
_USAGE = {"prompt_tokens": 12, "total_tokens": 62, "completion_tokens": 50}
_HEAD = b"HTTP/1.1 200 OK\r\ndate: Sun, 29 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The events of a streamed answer."""

    chunks: int
    """Events with text. A last one with the reason of the end, and `[DONE]`, follow."""
    text_bytes: int = len(_TOKEN)
    """Bytes of text in each."""
    interval_s: float = 0.0
    """Time between two. 0: each is sent as soon as the one before has left."""


STREAMS: Mapping[str, Stream] = {
    "stream-50": Stream(chunks=50),
    "stream-500": Stream(chunks=500),
    "stream-8k": Stream(chunks=50, text_bytes=8 * 1024),
}
SLOW = "slow-"
"""`slow-N` is a stream of N chunks, one a second."""


def stream_of(name: str) -> Stream:
    """The stream of this name.

    Raises:
        ValueError: There is none.
    """
    if name.startswith(SLOW):
        return Stream(chunks=int(name.removeprefix(SLOW)), interval_s=1.0)
    if name not in STREAMS:
        raise ValueError(f"answer: got {name!r}, expected {UNARY}, {', '.join(STREAMS)} or {SLOW}N")
    return STREAMS[name]


def chunks_of(name: str) -> int:
    """How many events with text an answer has. 0: it is not streamed."""
    return 0 if name == UNARY else stream_of(name).chunks


def tokens_of(name: str) -> int:
    """How many tokens an answer has."""
    return _UNARY_TOKENS if name == UNARY else stream_of(name).chunks


def tokens_in(content: bytes) -> int:
    """How many tokens a body has, however a subject has written it."""
    return content.count(_TOKEN.encode())


def fault(name: str, status: int, body: bytes) -> str | None:
    """What is wrong with an answer; None: nothing.

    Args:
        name: What was asked for.
        status: Of HTTP.
        body: As the client got it.
    """
    if status != 200:
        return f"status {status}: {body[:_SHOWN_BYTES].decode(errors='replace')}"
    got, expected = tokens_in(body), tokens_of(name)
    return None if got == expected else f"{got} tokens in the answer, not {expected}"


def request_body(answer: str, *, model: str, body_bytes: int) -> bytes:
    """The body of a request for an answer, with so many bytes at least."""
    streamed = {} if answer == UNARY else {"stream": True}
    text = f"bench:{answer} "

    def encoded(content: str) -> bytes:
        messages = [{"role": "user", "content": content}]
        return json.dumps({"model": model, **streamed, "messages": messages}, separators=(",", ":")).encode()

    missing = body_bytes - len(encoded(text))
    return encoded(text + "x" * max(0, missing))


def event(text: str, *, usage: bool, finish: str | None = None) -> bytes:
    """One event of a stream, as vLLM writes it.

    Args:
        text: What is generated.
        usage: The caller asked for usage in every event.
        finish: Why the choice ends; None: it does not.
    """
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, "token_ids": None}
    return _event([choice], {"usage": _USAGE} if usage else {})


def _event(choices: list[Mapping[str, object]], usage: Mapping[str, object]) -> bytes:
    fields = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "m0",
        "choices": choices,
        **usage,
    }
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def whole(content: bytes) -> bytes:
    """A complete answer with this JSON."""
    return _HEAD + b"content-length: %d\r\ncontent-type: application/json\r\n\r\n" % len(content) + content


def unary_json() -> bytes:
    """The JSON of a chat completion that is not streamed."""
    message: dict[str, object] = {
        "role": "assistant",
        "content": _TOKEN * _UNARY_TOKENS,
        "refusal": None,
        "tool_calls": [],
        "reasoning": None,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    fields = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "m0",
        "choices": [choice],
        "usage": _USAGE,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


STREAM_HEAD = _HEAD + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
MODELS = whole(b'{"object":"list","data":[{"id":"m0","object":"model"}]}')
"""For every GET: the list of models, which is also an answer to a health check."""


def events(stream: Stream, *, usage: bool = False) -> Iterator[bytes]:
    """The events of a stream.

    Args:
        stream: Which.
        usage: The caller asked for usage in every event and in a last one, as the ingress does.
    """
    for number in range(stream.chunks):
        # LiteLLM ends a stream whose events repeat.
        yield event(f"{_TOKEN}{number}".ljust(stream.text_bytes, "x"), usage=usage)
    last = event("", usage=usage, finish="stop")
    last += _event([], {"usage": _USAGE}) if usage else b""
    yield last + b"data: [DONE]\n\n"


def pieces(stream: Stream, *, usage: bool) -> Iterator[bytes]:
    """What is written of a stream after its head: each event in an HTTP chunk, and the last one."""
    *first, last = (b"%x\r\n%b\r\n" % (len(data), data) for data in events(stream, usage=usage))
    yield from first
    yield last + b"0\r\n\r\n"
