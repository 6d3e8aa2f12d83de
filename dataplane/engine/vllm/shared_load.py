"""The load of an engine with several front ends, as the event `engine_load`. Pure.

vLLM logs its load only where one front end sees all of it. Here it comes from the metrics, which
the front ends add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

_PROMPT, _GENERATION = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_QUERIES, _HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
_CACHE_USAGE = "vllm:kv_cache_usage_perc"
_NAMES = frozenset((_PROMPT, _GENERATION, _RUNNING, _WAITING, _QUERIES, _HITS, _CACHE_USAGE))

Totals = Mapping[str, float]
"""By the names of vLLM's metrics, without those that are not asked for."""


def totals(samples: Iterable[tuple[str, float]]) -> Totals:
    """The metrics of the load.

    Args:
        samples: Names and values of all series.
    """
    found: Counter[str] = Counter()
    for name, value in samples:
        if name in _NAMES:
            found[name] += value  # type: ignore[assignment]  # Counter adds floats as well
    return found


def load_between(before: Totals, after: Totals, seconds: float) -> dict[str, float] | None:
    """The load in a span of time, with the names that `load_log` gives; None: there was none."""

    def risen(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    running, waiting = after.get(_RUNNING, 0.0), after.get(_WAITING, 0.0)
    if not (running or waiting or risen(_PROMPT) or risen(_GENERATION)):
        return None
    queries = risen(_QUERIES)
    return {
        "prompt_tokens_per_s": round(risen(_PROMPT) / seconds, 1),
        "generation_tokens_per_s": round(risen(_GENERATION) / seconds, 1),
        "running_requests": int(running),
        "waiting_requests": int(waiting),
        "kv_cache_usage_percent": round(100 * after.get(_CACHE_USAGE, 0.0), 1),
        "prefix_cache_hit_rate_percent": round(100 * risen(_HITS) / queries, 1) if queries else 0.0,
    }
