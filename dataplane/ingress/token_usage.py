"""Reads the token usage of an answer from its bytes as they pass. Pure.

OpenAI's `usage` is in the body of an answer, and in the last event of a stream if the caller asked
for it. Anthropic's is in the first and last events. A stream without usage counts one token for
each event, which is about the number of tokens of the answer without its prompt.
"""

from __future__ import annotations

import msgspec

_BODY_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of a body that is kept until its end. Larger bodies (embeddings of many texts) are counted
by their size."""
_EVENT_BYTES_MAX = 1024 * 1024
"""Bytes of an unfinished line that are kept."""
_BYTES_OF_A_TOKEN = 4
"""The usual average for English text."""


class _Usage(msgspec.Struct):
    total_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


_ABSENT = msgspec.Raw()


class _Part(msgspec.Struct):
    usage: msgspec.Raw = _ABSENT


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = _ABSENT
    message: msgspec.Raw = _ABSENT
    """Holds the usage in Anthropic's first event."""
    response: msgspec.Raw = _ABSENT
    """Holds the usage in events of OpenAI's Responses API."""


_answers = msgspec.json.Decoder(_Answer)
_parts = msgspec.json.Decoder(_Part)
_usages = msgspec.json.Decoder(_Usage)


class TokenMeter:
    """Meters one answer."""

    def __init__(self, *, streams_events: bool) -> None:
        self._streams_events = streams_events
        self._pending = bytearray()
        self._bytes = 0
        self._events = 0
        self._input = 0
        self._output = 0
        self._total = 0

    def feed(self, chunk: bytes) -> None:
        """Read the next chunk of the body."""
        self._bytes += len(chunk)
        if not self._streams_events:
            if self._bytes <= _BODY_BYTES_MAX:
                self._pending += chunk
            return
        *lines, unfinished = (bytes(self._pending) + chunk).split(b"\n")
        self._pending = bytearray(unfinished[:_EVENT_BYTES_MAX])
        for line in lines:
            if line.startswith(b"data:"):
                self._events += 1
                if b'"usage"' in line:
                    self._read(line[len(b"data:") :])

    def tokens(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        if not self._streams_events and self._bytes <= _BODY_BYTES_MAX:
            self._read(bytes(self._pending))
        found = max(self._total, self._input + self._output)
        if found:
            return found
        if self._streams_events:
            return self._events
        return self._bytes // _BYTES_OF_A_TOKEN if self._bytes > _BODY_BYTES_MAX else 0

    def _read(self, document: bytes) -> None:
        try:
            answer = _answers.decode(document)
            found = [answer.usage]
            found += [_parts.decode(part).usage for part in (answer.message, answer.response) if _is_object(part)]
            usages = [_usages.decode(usage) for usage in found if _is_object(usage)]
        except msgspec.DecodeError:
            return
        for usage in usages:
            self._total = max(self._total, usage.total_tokens or 0)
            self._input = max(self._input, usage.prompt_tokens or usage.input_tokens or 0)
            self._output = max(self._output, usage.completion_tokens or usage.output_tokens or 0)


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).lstrip().startswith(b"{")
