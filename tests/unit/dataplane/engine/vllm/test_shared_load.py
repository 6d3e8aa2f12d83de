from __future__ import annotations

from dataplane.engine.vllm.shared_load import load_between, totals

IDLE = totals([("vllm:prompt_tokens_total", 100.0), ("vllm:generation_tokens_total", 50.0)])


def test_the_series_of_a_metric_are_added_up_and_others_left_out() -> None:
    samples = [("vllm:generation_tokens_total", 3.0), ("vllm:generation_tokens_total", 4.0), ("python_info", 1.0)]
    assert totals(samples) == {"vllm:generation_tokens_total": 7.0}


def test_the_load_has_rates_of_the_span_and_numbers_of_its_end() -> None:
    after = totals(
        [
            ("vllm:prompt_tokens_total", 150.0),
            ("vllm:generation_tokens_total", 250.0),
            ("vllm:num_requests_running", 3.0),
            ("vllm:num_requests_waiting", 1.0),
            ("vllm:kv_cache_usage_perc", 0.0071),
            ("vllm:prefix_cache_queries_total", 40.0),
            ("vllm:prefix_cache_hits_total", 5.0),
        ]
    )
    assert load_between(IDLE, after, 10.0) == {
        "prompt_tokens_per_s": 5.0,
        "generation_tokens_per_s": 20.0,
        "running_requests": 3,
        "waiting_requests": 1,
        "kv_cache_usage_percent": 0.7,
        "prefix_cache_hit_rate_percent": 12.5,
    }


def test_without_work_there_is_no_load() -> None:
    assert load_between(IDLE, IDLE, 10.0) is None
    assert load_between(IDLE, {**IDLE, "vllm:num_requests_waiting": 1.0}, 10.0) is not None
