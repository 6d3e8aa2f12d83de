"""The args of the SIMULATED engine kind. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from protocol.validation import shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """How a simulated engine behaves: the args of a model with `engine.kind: SIMULATED`. All are
    optional."""

    start_up_s: float = 0.0
    """Seconds that starting takes."""
    wake_up_s: float = 0.0
    """Seconds that waking from sleep takes (`scaling.idle: SLEEP`)."""
    fail_start: str = ""
    """Not empty: starting fails with these words, after `start_up_s`."""
    memory_bytes: int = 0
    """Bytes of memory that starting asks the kernel for; what it refuses fails the start. They are
    not written to."""
    time_to_first_token_s: float = 0.0
    """Seconds before the first token of each answer; embeddings and token counts take as long."""
    tokens_per_second: float = 0.0
    """Speed of one answer. 0: as fast as it goes."""
    max_tokens: int = 16
    """Tokens of an answer at most, where the request says nothing."""
    max_model_len: int = 4096
    """Tokens that fit into one request with its answer; more in a prompt is answered 400."""
    text: str = ""
    """What is answered. Default: `simulated answer of {model} to: {prompt}`. A token is a word."""
    embedding_dimensions: int = 8
    """Numbers in an embedding."""
    error_rate: float = 0.0
    """Share of requests, 0 to 1, that are answered with `error_status`."""
    error_status: int = 500
    """Status of those errors, 400 to 599."""
    hang: bool = False
    """It starts, and then answers no request ever, though it says that it lives."""
    break_after_tokens: int = 0
    """Not 0: a streamed answer's connection is cut after so many tokens."""
    crash_after_requests: int = 0
    """Not 0: it answers so many requests, and the next one ends its process."""
    hang_after_requests: int = 0
    """Not 0: it answers so many requests, and with the next one it hangs: nothing more comes of any
    answer, and it does not say that it lives. It is then killed as a vLLM engine that hangs is."""

    @classmethod
    def from_args(cls, args: Mapping[str, object]) -> SimulatedSettings:
        """Check and take a model's engine args. Numbers may be floats with nothing behind the
        point: JSON's are.

        Raises:
            ValueError: an arg is unknown, of the wrong type or out of range; the message says
                which, what was got and what is allowed.
        """
        values: dict[str, object] = {}
        for written, value in args.items():
            name = written.replace("-", "_")
            if name not in _DEFAULTS:
                raise ValueError(_unknown(written))
            if name in values:
                raise ValueError(f"{written}: given twice")
            values[name] = _checked(name, value)
        return cls(**values)  # type: ignore[arg-type]  # _checked has seen to each one's type


_DEFAULTS: Mapping[str, object] = {field.name: field.default for field in fields(SimulatedSettings)}
_RANGES: Mapping[str, tuple[float, float]] = {
    "start_up_s": (0, 86_400),
    "wake_up_s": (0, 86_400),
    "memory_bytes": (0, 2**62),
    "time_to_first_token_s": (0, 86_400),
    "tokens_per_second": (0, 1_000_000),
    "max_tokens": (1, 1_000_000),
    "max_model_len": (1, 100_000_000),
    "embedding_dimensions": (1, 65_536),
    "error_rate": (0, 1),
    "error_status": (400, 599),
    "break_after_tokens": (0, 1_000_000),
    "crash_after_requests": (0, 1_000_000_000),
    "hang_after_requests": (0, 1_000_000_000),
}
_TEXT_CHARACTERS_MAX = 65_536


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), _DEFAULTS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{name}: the SIMULATED engine does not know this argument{hint}; allowed: {', '.join(_DEFAULTS)}"


def _checked(name: str, value: object) -> object:
    default = _DEFAULTS[name]
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name}: got {shorten(value)}, allowed: true or false")
        return value
    if isinstance(default, str):
        if not isinstance(value, str) or len(value) > _TEXT_CHARACTERS_MAX:
            raise ValueError(
                f"{name}: got {shorten(value)}, allowed: text of at most {_TEXT_CHARACTERS_MAX} characters"
            )
        return value
    low, high = _RANGES[name]
    whole = isinstance(default, int)
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name}: got {shorten(value)}, allowed: {kind} from {low} to {high}")
    if whole and value != int(value):
        raise ValueError(f"{name}: got {shorten(value)}, allowed: {kind} from {low} to {high}")
    return int(value) if whole else float(value)
