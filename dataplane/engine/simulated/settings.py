"""The args of the SIMULATED engine kind. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from protocol.validation import shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """How a simulated engine behaves: the args of a model with `engine.kind: SIMULATED`.

    All are optional.
    """

    start_up_s: float = 0.0
    """Seconds that starting takes."""
    wake_up_s: float = 0.0
    """Seconds that waking from sleep takes (`scaling.idle: SLEEP`)."""
    fail_start: str = ""
    """Not empty: starting fails with this message, after `start_up_s`."""
    fail_adapters: str = ""
    """Not empty: loading an adapter fails with this message."""
    memory_bytes: int = 0
    """Bytes of memory that starting asks the kernel for. If it refuses them, the start fails. They
    are not written to."""
    time_to_first_token_s: float = 0.0
    """Seconds before the first token of each answer; embeddings and token counts take as long."""
    tokens_per_second: float = 0.0
    """Speed of one answer. 0: as fast as possible."""
    max_tokens: int = 16
    """Most tokens of an answer, unless the request sets it."""
    max_model_len: int = 4096
    """Tokens that fit into a request with its answer. A longer prompt is answered 400."""
    text: str = ""
    """The answer. Default: `simulated answer of {model} to: {prompt}`. A token is a word."""
    embedding_dimensions: int = 8
    """Numbers in an embedding."""
    error_rate: float = 0.0
    """Share of requests, 0 to 1, that are answered with `error_status`."""
    error_status: int = 500
    """Status of those errors, 400 to 599."""
    hang: bool = False
    """It starts and then answers no request, but still answers liveness probes."""
    break_after_tokens: int = 0
    """Not 0: the connection of a streamed answer is cut after that many tokens."""
    crash_after_requests: int = 0
    """Not 0: it answers that many requests, and the next one ends its process."""
    hang_after_requests: int = 0
    """Not 0: it answers that many requests, and hangs with the next one. Nothing more comes of any
    answer, and liveness probes fail, so it is killed as a vLLM engine that hangs is."""

    api_server_count: int = 1
    """Front-end processes, 1 to 16. Each simulates an engine; adapters and sleep are one's."""

    @classmethod
    def from_args(cls, args: Mapping[str, object]) -> SimulatedSettings:
        """Check a model's engine args. Whole numbers may be floats, as they are in JSON.

        Raises:
            ValueError: an arg is unknown, of the wrong type or out of range. The message names it,
                its value and what is allowed.
        """
        values: dict[str, object] = {}
        for written, value in args.items():
            name = written.replace("-", "_")
            if name not in _DEFAULTS:
                raise ValueError(_unknown(written))
            if name in values:
                raise ValueError(f"{written}: given twice")
            values[name] = _checked(name, value)
        return cls(**values)  # type: ignore[arg-type]  # _checked has checked the types


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
    "api_server_count": (1, 16),
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
