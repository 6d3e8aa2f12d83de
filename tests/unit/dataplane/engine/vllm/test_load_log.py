from __future__ import annotations

import pytest

from dataplane.engine.vllm.load_log import load_in


def test_every_number_of_the_line_is_a_field_with_its_unit() -> None:
    assert load_in(
        "Engine 001: Avg prompt throughput: 9.1 tokens/s, Avg generation throughput: 58.2 tokens/s, "
        "Running: 3 reqs, Waiting: 12 reqs, Deferred: 2 reqs, Preemptions: 4, GPU KV cache usage: 0.7%, "
        "Prefix cache hit rate: 12.5%, External prefix cache hit rate: 0.0%, MM cache hit rate: 1.0%"
    ) == {
        "engine": 1,
        "prompt_tokens_per_s": 9.1,
        "generation_tokens_per_s": 58.2,
        "running_requests": 3,
        "waiting_requests": 12,
        "deferred_requests": 2,
        "preemptions": 4,
        "kv_cache_usage_percent": 0.7,
        "prefix_cache_hit_rate_percent": 12.5,
        "external_prefix_cache_hit_rate_percent": 0.0,
        "mm_cache_hit_rate_percent": 1.0,
    }


def test_engines_that_vllm_adds_up_have_no_index() -> None:
    assert load_in("4 Engines Aggregated: Running: 3 reqs, CPU KV cache usage: 0.7%") == {
        "running_requests": 3,
        "kv_cache_usage_percent": 0.7,
    }


@pytest.mark.parametrize(
    "line",
    [
        "SpecDecoding metrics: Mean acceptance length: 2.00",
        "Engine 000: Iteration(7): 1 context requests, 9 context tokens",
        "Engine 000: Running: 3 reqs, KV fetch: 1 waiting to start, 2 in progress, 3 completed waiting",
        "Engine 000: Running: many reqs",
        "",
    ],
)
def test_a_line_that_is_not_understood_in_full_stays_as_vllm_wrote_it(line: str) -> None:
    assert load_in(line) is None
