"""The answers of the SIMULATED engine: OpenAI-shaped and deterministic. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import msgspec

from dataplane.engine.simulated.settings import SimulatedSettings

_PROMPT_WORDS_SHOWN = 64
"""Words of the prompt that an answer repeats, at most."""
_CHOICES_MAX = 128
_FINGERPRINT = "broadsheet-simulated"


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class _Message(msgspec.Struct):
    # Text, a list of parts, or nothing. Parts that are not text have no words.
    content: Any = None


class RequestFields(msgspec.Struct):
    """The fields of a request that change an answer. Others are ignored."""

    model: str
    messages: list[_Message] = []
    prompt: str | list[str | int | list[int]] = ""
    input: str | list[str | int | list[int]] = ""
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    ignore_eos: bool = False
    """vLLM's: go on to `max_tokens`, beyond the end of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A parsed request."""

    fields: RequestFields
    is_chat: bool
    shown_model: str
    """The `model` of the response."""
    prompt_words: tuple[str, ...]

    @classmethod
    def of(cls, path: str, body: bytes, served_name: bytes | None) -> EngineRequest:
        """Parse a body.

        Args:
            path: The route.
            body: JSON.
            served_name: The model to show; None: the one in the body.

        Raises:
            msgspec.MsgspecError: the body does not fit the fields.
        """
        fields = _DECODER.decode(body)
        return cls(
            fields=fields,
            is_chat=path == "/v1/chat/completions",
            shown_model=served_name.decode() if served_name is not None else fields.model,
            prompt_words=tuple(_words(fields)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """An answer, before it is encoded."""

    id: str
    request: EngineRequest
    words: tuple[str, ...]
    finish_reason: str
    choices: int


class AnswerMaker:
    """Makes and encodes answers."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings

    def generation(self, request: EngineRequest, number: int) -> Generation:
        """The answer to the `number`th request of this engine."""
        fields = request.fields
        asked = fields.max_completion_tokens or fields.max_tokens or self._settings.max_tokens
        limit = min(asked, self._settings.max_model_len)
        prompt = " ".join(request.prompt_words[:_PROMPT_WORDS_SHOWN])
        text = self._settings.text or f"simulated answer of {fields.model} to: {prompt}"
        words = text.split()
        if fields.ignore_eos:
            words = list(islice(cycle(words), limit))
        return Generation(
            id=f"{'chatcmpl' if request.is_chat else 'cmpl'}-simulated-{number}",
            request=request,
            words=tuple(words[:limit]),
            finish_reason="length" if fields.ignore_eos or len(words) > limit else "stop",
            choices=min(max(fields.n or 1, 1), _CHOICES_MAX),
        )

    def whole(self, generation: Generation) -> bytes:
        """The body of an answer that is not streamed."""
        text = " ".join(generation.words)
        content: dict[str, object] = {"message": {"role": "assistant", "content": text}}
        if not generation.request.is_chat:
            content = {"text": text}
        choices = [
            {"index": index, **content, "logprobs": None, "finish_reason": generation.finish_reason}
            for index in range(generation.choices)
        ]
        kind = "chat.completion" if generation.request.is_chat else "text_completion"
        return _encode(self._envelope(generation, kind) | {"choices": choices, "usage": self._usage(generation)})

    def first_event(self, generation: Generation) -> bytes:
        """The event that opens each choice of a chat; empty for a text completion."""
        if not generation.request.is_chat:
            return b""
        return self._events(generation, {"delta": {"role": "assistant", "content": ""}}, None, tokens=0)

    def token_event(self, generation: Generation, position: int) -> bytes:
        """The events for a single token of each choice."""
        word = generation.words[position] if position == 0 else " " + generation.words[position]
        return self._events(generation, _piece(generation, word), None, tokens=position + 1)

    def last_events(self, generation: Generation) -> bytes:
        """The end of a stream: finish reason, usage if requested, and OpenAI's end mark.

        The fingerprint is in the last event that has one, as vLLM has it.
        """
        words = len(generation.words)
        events = self._events(generation, _piece(generation, ""), generation.finish_reason, tokens=words)
        if _wants_usage(generation):
            envelope = self._envelope(generation, _chunk_kind(generation))
            usage = {"choices": [], "usage": self._usage(generation), "system_fingerprint": _FINGERPRINT}
            events += _event(envelope | usage)
        return events + b"data: [DONE]\n\n"

    def embeddings(self, request: EngineRequest) -> bytes:
        """A vector per input, from its hash."""
        inputs = request.fields.input
        items = inputs if isinstance(inputs, list) and inputs and not isinstance(inputs[0], int) else [inputs]
        vectors = [
            {"object": "embedding", "index": index, "embedding": self._embedding(f"{request.fields.model}\0{item}")}
            for index, item in enumerate(items)
        ]
        count = len(request.prompt_words)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return _encode({"object": "list", "model": request.shown_model, "data": vectors, "usage": usage})

    def token_count(self, request: EngineRequest) -> bytes:
        """vLLM's answer to `/tokenize`. A token is a word, and its id is its position."""
        count = len(request.prompt_words)
        return _encode({"count": count, "max_model_len": self._settings.max_model_len, "tokens": list(range(count))})

    def models(self, served_name: str) -> bytes:
        """The list of the single model."""
        model = {"id": served_name, "object": "model", "created": 0, "owned_by": "broadsheet"}
        return _encode({"object": "list", "data": [model | {"max_model_len": self._settings.max_model_len}]})

    def _events(
        self, generation: Generation, content: dict[str, object], finish_reason: str | None, *, tokens: int
    ) -> bytes:
        envelope = self._envelope(generation, _chunk_kind(generation))
        options = generation.request.fields.stream_options
        last: dict[str, object] = {}
        if _wants_usage(generation):
            if options is not None and options.continuous_usage_stats:
                last = {"usage": _usage(len(generation.request.prompt_words), tokens)}
        elif finish_reason is not None:
            last = {"system_fingerprint": _FINGERPRINT}
        return b"".join(
            _event(envelope | {"choices": [{"index": index, **content, "finish_reason": finish_reason}]} | last)
            for index in range(generation.choices)
        )

    def _envelope(self, generation: Generation, kind: str) -> dict[str, object]:
        return {"id": generation.id, "object": kind, "created": 0, "model": generation.request.shown_model}

    def _usage(self, generation: Generation) -> dict[str, int]:
        return _usage(len(generation.request.prompt_words), len(generation.words) * generation.choices)

    def _embedding(self, text: str) -> list[float]:
        stream = hashlib.shake_256(text.encode()).digest(self._settings.embedding_dimensions)
        return [byte / 127.5 - 1 for byte in stream]


_DECODER = msgspec.json.Decoder(RequestFields)


def _words(fields: RequestFields) -> list[str]:
    words: list[str] = []
    for message in fields.messages:
        parts = message.content if isinstance(message.content, list) else [{"text": message.content}]
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else None
            words += text.split() if isinstance(text, str) else []
    for value in (fields.prompt, fields.input):
        for item in [value] if isinstance(value, str) else value:
            if isinstance(item, str):
                words += item.split()
            else:
                words += [str(token) for token in (item if isinstance(item, list) else [item])]
    return words


def _wants_usage(generation: Generation) -> bool:
    options = generation.request.fields.stream_options
    return options is not None and bool(options.include_usage)


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _piece(generation: Generation, text: str) -> dict[str, object]:
    return {"delta": {"content": text}} if generation.request.is_chat else {"text": text}


def _chunk_kind(generation: Generation) -> str:
    return "chat.completion.chunk" if generation.request.is_chat else "text_completion"


def _event(content: dict[str, object]) -> bytes:
    return b"data: " + _encode(content) + b"\n\n"


def _encode(content: dict[str, object]) -> bytes:
    return msgspec.json.encode(content)
