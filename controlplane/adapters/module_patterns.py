"""Matches modules by the keys of `rank_pattern` and `alpha_pattern`, as the engine does. Pure.

A key is a regular expression for the end of a module's path, from a dot on (vLLM 0.32,
vllm/lora/peft_helper.py, `_match_pattern`). Whoever writes it could choose one that takes hours.
So keys are limited to what people write, and their work is added up before any is matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_KEY_CHARS_MAX = 256
_ALTERNATIVES_MAX = 32

_ATOM = r"(?:[\w-]|\\?\.|\\[dw-]|\[\w(?:-?\w)*\])"
_GROUP = rf"\((?:\?:)?{_ATOM}*(?:\|{_ATOM}*)*\)"
_KEY = re.compile(rf"\^?(?:{_ATOM}|[*+]|{_GROUP})*\$?")
"""Letters, dots, classes, `*`, `+`, and groups of alternatives, which are not repeated."""

_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+]")

_REPEATING_WORK = 64
"""Work of a key with `*` or `+`, where a key of plain letters is 1."""


def compiled(key: str) -> re.Pattern[str]:
    """The expression for the modules that a key stands for.

    Raises:
        ValueError: the key is no regular expression, or not one of those allowed.
    """
    if len(key) > _KEY_CHARS_MAX:
        raise ValueError(f"a key has at most {_KEY_CHARS_MAX} characters")
    if (
        _KEY.fullmatch(key) is None
        or _REPEATED_GROUP.search(key)
        or _repeats(key) > 1
        or key.count("(") > 1
        or key.count("|") >= _ALTERNATIVES_MAX
    ):
        raise ValueError(
            "a key is a module's name or a simple pattern: letters, digits, '.', '\\d', '[0-9]', "
            f"one group such as '(q|v)' with at most {_ALTERNATIVES_MAX} alternatives, and one '*' or '+'"
        )
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        raise ValueError(f"the key is no regular expression: {error}") from None


def work(keys: Iterable[str]) -> int:
    """How long it takes to match one module with all the keys, where a plain key is 1."""
    return sum((1 + key.count("|")) * (_REPEATING_WORK if _repeats(key) else 1) for key in keys)


def _repeats(key: str) -> int:
    return key.count("*") + key.count("+")
