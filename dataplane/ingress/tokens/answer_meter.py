"""Reads the token usage of an answer from its bytes as they pass. Pure.

Where an answer has its usage:

- OpenAI's `usage` is in the body of an answer. In a stream it is in the last event, and in every
  event if that was asked for.
- Anthropic's is in the first and last events. Cohere's, and that of Responses, are in the last.
- A transcription reports the seconds of its audio: a second counts as 100 tokens, as vLLM counts it
  in streams. A token of its text counts as 4 bytes.

A stream that breaks off counts what its events have reported, and one token for each event since. A
prompt that is not reported is estimated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import msgspec

AUDIO_TOKENS_PER_S = 100
"""The frames that Whisper makes of a second. vLLM adds them to the prompt of a stream."""
BYTES_OF_A_TOKEN = 4
"""The usual average for English text."""
_BODY_BYTES_MAX = 64 * 1024
"""Bytes at the end of a body that are kept. In a larger body (embeddings of many texts), usage is
looked for there: vLLM writes it after the vectors and choices."""
_USAGE = b'"usage":{'
"""It cannot be within a text, where JSON puts a backslash before each quotation mark."""
_EVENT_BYTES_MAX = 1024 * 1024
"""Bytes of an unfinished line that are kept."""
_LAST_EVENTS = frozenset((b'"message_delta"', b'"message-end"', b'"response.completed"', b'"response.incomplete"'))
"""Types of the events that have the usage of a whole stream."""

_CLOSED_OBJECTS_MAX = 16
"""Objects within usage that are looked through for its end: details of tokens."""

_ABSENT = msgspec.Raw()


class _Tokens(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


_NO_TOKENS = _Tokens()


class _Usage(msgspec.Struct):
    total_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens: _Tokens | None = None
    """Cohere's."""
    seconds: float | None = None
    """Of audio."""


class _Part(msgspec.Struct):
    usage: msgspec.Raw = _ABSENT


class _Choice(msgspec.Struct):
    index: int = 0


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = _ABSENT
    message: msgspec.Raw = _ABSENT
    """Holds the usage in Anthropic's first event."""
    response: msgspec.Raw = _ABSENT
    """Holds the usage in events of OpenAI's Responses API."""
    delta: msgspec.Raw = _ABSENT
    """Holds the usage in Cohere's last event."""
    choices: msgspec.Raw = _ABSENT
    type: msgspec.Raw = _ABSENT
    duration: msgspec.Raw = _ABSENT
    """Of the audio of a verbose transcription, in seconds; some releases write it as text."""
    text: msgspec.Raw = _ABSENT


_answers = msgspec.json.Decoder(_Answer)
_parts = msgspec.json.Decoder(_Part)
_usages = msgspec.json.Decoder(_Usage)
_choices = msgspec.json.Decoder(list[_Choice])
_numbers = msgspec.json.Decoder(float, strict=False)


class AnswerMeter:
    """Meters one answer."""

    def __init__(self, *, streams_events: bool, is_audio: bool, prompt_tokens: Callable[[], int]) -> None:
        """
        Args:
            streams_events: The answer is a stream of events.
            is_audio: The request was audio.
            prompt_tokens: Estimates those of the request; called if the answer reports none.
        """
        self._streams_events = streams_events
        self._is_audio = is_audio
        self._prompt_tokens = prompt_tokens
        self._pending = bytearray()
        self._bytes = 0
        self._events = 0
        """Events since the last one that reported usage."""
        self._input = 0
        self._output = 0
        self._output_by_choice: dict[int, int] = {}
        self._total = 0
        self._seconds: float | None = None
        self._is_whole = False
        """The usage of the whole answer was read, or its body has ended."""

    def feed(self, chunk: bytes) -> None:
        """Read the next chunk of the body."""
        self._bytes += len(chunk)
        if not self._streams_events:
            self._pending += chunk
            del self._pending[:-_BODY_BYTES_MAX]
            return
        *lines, unfinished = (bytes(self._pending) + chunk).split(b"\n")
        self._pending = bytearray(unfinished[:_EVENT_BYTES_MAX])
        for line in lines:
            if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
                found = b'"usage"' in line and self._read(line[len(b"data:") :])
                self._events = 0 if found else self._events + 1

    def end(self) -> None:
        """Note that the answer is complete."""
        if not self._streams_events:
            self._is_whole = True

    def tokens(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        if self._streams_events:
            return self._tokens_of_stream()
        if not self._is_whole:
            return self._prompt_tokens() + self._bytes // BYTES_OF_A_TOKEN
        is_kept_whole = self._bytes <= _BODY_BYTES_MAX
        self._read(bytes(self._pending) if is_kept_whole else _usage_at_the_end(self._pending))
        found = max(self._total, self._input + self._output)
        if self._is_audio and not found:
            return self._tokens_of_transcription()
        return found if found or is_kept_whole else self._bytes // BYTES_OF_A_TOKEN

    def _tokens_of_stream(self) -> int:
        if self._is_whole:
            return max(self._total, self._input + self._output)
        output = max(self._output, sum(self._output_by_choice.values()))
        return (self._input or self._prompt_tokens()) + output + self._events

    def _tokens_of_transcription(self) -> int:
        heard = self._prompt_tokens() if self._seconds is None else math.ceil(self._seconds * AUDIO_TOKENS_PER_S)
        try:
            text_bytes = len(_answers.decode(self._pending).text)
        except msgspec.DecodeError:
            text_bytes = self._bytes
        return heard + text_bytes // BYTES_OF_A_TOKEN

    def _read(self, document: bytes) -> bool:
        """Take the usage in a body or an event. Returns whether there is any."""
        try:
            answer = _answers.decode(document)
            self._seconds = _number(answer.duration) if answer.duration is not _ABSENT else None
            raws = [answer.usage]
            for part in (answer.message, answer.response, answer.delta):
                if part is not _ABSENT and _is_object(part):
                    raws.append(_parts.decode(part).usage)
            usages = []
            for raw in raws:
                if raw is not _ABSENT and _is_object(raw):
                    usages.append(_usages.decode(raw))
        except msgspec.DecodeError:
            return False
        for usage in usages:
            self._take(usage, answer)
        return bool(usages)

    def _take(self, usage: _Usage, answer: _Answer) -> None:
        tokens = usage.tokens or _NO_TOKENS
        self._total = max(self._total, usage.total_tokens or 0)
        self._input = max(self._input, usage.prompt_tokens or usage.input_tokens or tokens.input_tokens or 0)
        output = usage.completion_tokens or usage.output_tokens or tokens.output_tokens or 0
        self._seconds = usage.seconds if usage.seconds is not None else self._seconds
        choices = _choices_of(answer.choices) if self._streams_events else []
        for choice in choices:
            self._output_by_choice[choice.index] = output
        if not choices:
            self._output = max(self._output, output)
            # The last event of OpenAI's streams has no choices, that of others has a type.
            self._is_whole |= bytes(answer.type) in _LAST_EVENTS or bytes(answer.choices) != b""


def _usage_at_the_end(body: bytearray) -> bytes:
    """A body that has nothing but the last usage of `body`, as an object; empty: it has none."""
    start = body.rfind(_USAGE)
    end = start
    for _ in range(_CLOSED_OBJECTS_MAX):
        end = body.find(b"}", end + 1)
        if start < 0 or end < 0:
            break
        found = b"{" + bytes(body[start : end + 1]) + b"}"
        with contextlib.suppress(msgspec.DecodeError):
            _parts.decode(found)
            return found
    return b""


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).lstrip().startswith(b"{")


def _number(raw: msgspec.Raw) -> float | None:
    try:
        return _numbers.decode(raw) if bytes(raw) else None
    except msgspec.DecodeError:
        return None


def _choices_of(raw: msgspec.Raw) -> list[_Choice]:
    try:
        return _choices.decode(raw) if bytes(raw) else []
    except msgspec.DecodeError:
        return []
