"""What a caller may see of an engine's own messages. Pure."""

from __future__ import annotations

import re

_REASON_CHARACTERS_MAX = 300
"""Of an engine's message that a caller sees."""

_REDACTIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", "<url>"),
        (r"(['\"])~?/[^'\"]+\1", "<path>"),  # in quotes a path may hold spaces
        (r"(?<![\w/<])~?/[\w.@+~-][^\s'\":,;)\]}<>]*", "<path>"),
        (r"(?<![\w<])[\w.@+-]+(?:/[\w.@+-]+){2,}/?", "<path>"),  # a relative one; `org/name` of a hub stays
        (r"\b[A-Za-z]:\\[^\s'\"]+", "<path>"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b", "<address>"),
        (r"\[[0-9a-fA-F:.]*::?[0-9a-fA-F:.%\w]*\](?::\d{1,5})?", "<address>"),
        (
            r"(?<![\w:])(?:(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|(?:[0-9a-fA-F]{1,4}:)*:[0-9a-fA-F:]+)(?![\w:])",
            "<address>",
        ),
        (r"\b(?:[A-Za-z0-9-]+\.)+(?:local|internal|lan|svc|cluster|localdomain)\b(?::\d{1,5})?", "<address>"),
        (r"\b[A-Za-z][\w.-]*:\d{4,5}\b", "<address>"),
        (r"\b(?:hf|sk|ghp|xox[bp])[_-][A-Za-z0-9_-]{12,}", "<secret>"),
        (r"(?i)\bbearer\s+\S+", "<secret>"),
    )
)


def redact(message: str) -> str:
    """An engine's message without what callers must not see: paths, URLs, addresses, secrets.

    It becomes one line of at most 300 characters. Of a traceback only the last line is kept, which
    is the error itself.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        lines = lines[-1:]
    text = " ".join(lines)
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text if len(text) <= _REASON_CHARACTERS_MAX else text[: _REASON_CHARACTERS_MAX - 1] + "…"
