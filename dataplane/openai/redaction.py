"""What a caller may see of an engine's own messages. Pure."""

from __future__ import annotations

import functools
import re

_SHOWN_CHARACTERS_MAX = 300
"""Of an engine's message, redacted."""
_EXAMINED_CHARACTERS_MAX = 2000
"""Of an engine's message. The rest would rarely be shown: redaction makes messages shorter."""
_MESSAGES_MAX = 128
"""Messages whose redaction is kept: one for each model that fails at the same time."""
_TRACEBACK = "Traceback (most recent call last)"

# Publishers choose parts of a message. So each pattern takes linear time: a repetition begins where
# no character of its own comes before it, or it has a bound.
_REDACTIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<![\w+.-])[\w+.-]+://[^\s'\"<>]+", "<url>"),
        (r"(['\"])~?/[^'\"]+(?:\1|$)", "<path>"),  # in quotes a path may hold spaces; a cut takes the second one
        (r"(?<![\w/<])~?/[\w.@+~-][^\s'\":,;)\]}<>]*", "<path>"),
        (r"(?<![\w.@+-])[\w.@+-]+(?:/[\w.@+-]+){2,}/?", "<path>"),  # a relative one; `org/name` of a hub stays
        (r"\b[A-Za-z]:\\[^\s'\"]+", "<path>"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b", "<address>"),
        (r"\[[0-9a-fA-F:.]{0,45}:[0-9a-fA-F:.%\w]{0,64}\](?::\d{1,5})?", "<address>"),
        (
            r"(?<![\w:])(?:(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|(?:[0-9a-fA-F]{1,4}:)*:[0-9a-fA-F:]+)(?![\w:])",
            "<address>",
        ),
        (
            r"(?<![A-Za-z0-9.-])[A-Za-z0-9.-]*[A-Za-z0-9-]\.(?:local|internal|lan|svc|cluster|localdomain)\b(?::\d{1,5})?",
            "<address>",
        ),
        (r"(?<![\w.-])(?=[\w.-]*[A-Za-z])[\w.-]+:\d{4,5}\b", "<address>"),
        (r"\b(?:hf|sk|ghp|xox[bp])[_-][A-Za-z0-9_-]{12,}", "<secret>"),
        (r"(?i)\bbearer\s+\S+", "<secret>"),
    )
)


@functools.lru_cache(_MESSAGES_MAX)
def redact(message: str) -> str:
    """An engine's message without what callers must not see: paths, URLs, addresses, secrets.

    It becomes one line of at most 300 characters. Of a traceback only the last line is kept, which
    is the error itself. Every refusal of a failed model asks for it, so results are kept.
    """
    error = message.rstrip().splitlines()[-1] if _TRACEBACK in message else message
    text, is_cut = _cut(error.strip())
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    if len(text) + is_cut <= _SHOWN_CHARACTERS_MAX:
        return f"{text}…" if is_cut else text
    return text[: _SHOWN_CHARACTERS_MAX - 1] + "…"


def _cut(text: str) -> tuple[str, bool]:
    """The beginning of a text, and whether more follows.

    The word at the cut is left out: no pattern may recognise half a secret.
    """
    if len(text) <= _EXAMINED_CHARACTERS_MAX:
        return text, False
    *before, _ = text[:_EXAMINED_CHARACTERS_MAX].rsplit(maxsplit=1)
    return "".join(before), True
