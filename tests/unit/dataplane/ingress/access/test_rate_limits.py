"""Token buckets of API keys."""

from __future__ import annotations

from dataplane.ingress.access.rate_limits import Limited, RateLimits
from dataplane.snapshot.api_key import ApiKey
from tests.views import api_key


def key(requests: int = 0, tokens: int = 0, key_id: str = "k") -> ApiKey:
    return ApiKey.of(api_key(key_id, "secret", requestsPerMinute=requests, tokensPerMinute=tokens))


def admitted(limits: RateLimits, which: ApiKey, now: float, tries: int) -> int:
    return sum(limits.admit(which, now) is None for _ in range(tries))


def test_the_limit_of_a_minute_is_admitted_at_once_and_then_evenly() -> None:
    limits, sixty = RateLimits(), key(requests=60)
    assert admitted(limits, sixty, 0.0, 100) == 60
    assert limits.admit(sixty, 0.5) == Limited(tokens=False, limit=60, retry_after_s=0.5)
    assert admitted(limits, sixty, 1.0, 5) == 1
    assert admitted(limits, sixty, 11.0, 50) == 10
    assert admitted(limits, sixty, 10_000.0, 100) == 60


def test_any_minute_admits_at_most_twice_the_limit() -> None:
    limits, sixty = RateLimits(), key(requests=60)
    passed = [now / 10 for now in range(3000) if limits.admit(sixty, now / 10) is None]
    assert len(passed) <= 60 + 300
    for start in passed:
        assert sum(start <= moment < start + 60 for moment in passed) <= 120
    assert sum(moment >= 240 for moment in passed) <= 61


def test_tokens_are_charged_afterwards_and_a_debt_delays_the_next_request() -> None:
    limits, thousand = RateLimits(), key(tokens=600)
    assert limits.admit(thousand, 0.0) is None
    limits.charge_tokens(thousand, 1200, 0.0)
    refused = limits.admit(thousand, 30.0)
    assert refused is not None
    assert (refused.tokens, refused.limit, round(refused.retry_after_s, 1)) == (True, 600, 30.1)
    assert limits.admit(thousand, 61.0) is None


def test_a_request_over_the_token_limit_is_not_counted() -> None:
    limits, both = RateLimits(), key(requests=10, tokens=60)
    assert limits.admit(both, 0.0) is None
    limits.charge_tokens(both, 60, 0.0)
    assert admitted(limits, both, 0.0, 20) == 0
    assert dict(limits.headers(both))[b"x-ratelimit-remaining-requests"] == b"9"


def test_headers_have_the_form_of_openai() -> None:
    limits, both = RateLimits(), key(requests=60, tokens=6000)
    limits.admit(both, 0.0)
    limits.charge_tokens(both, 13_000, 0.0)
    assert dict(limits.headers(both)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1s",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"2m10s",
    }
    limits.admit(key(), 0.0)
    assert limits.headers(key()) == []


def test_a_changed_limit_keeps_what_was_taken() -> None:
    limits = RateLimits()
    assert admitted(limits, key(requests=10), 0.0, 10) == 10
    assert admitted(limits, key(requests=30), 0.0, 100) == 20
    assert admitted(limits, key(requests=5), 0.0, 100) == 0
    assert limits.admit(key(requests=0), 0.0) is None


def test_each_key_has_its_own_buckets() -> None:
    limits = RateLimits()
    assert admitted(limits, key(requests=1, key_id="a"), 0.0, 5) == 1
    assert admitted(limits, key(requests=1, key_id="b"), 0.0, 5) == 1


def test_requests_admitted_by_other_replicas_count() -> None:
    first, second, sixty = RateLimits(), RateLimits(), key(requests=60)
    keys = {sixty.uid: sixty}
    second.take_over("first", first.used(), keys, 0.0)
    first.take_over("second", second.used(), keys, 0.0)
    assert admitted(first, sixty, 0.0, 40) == 40
    second.take_over("first", first.used(), keys, 0.0)
    assert admitted(second, sixty, 0.0, 60) == 20
    first.take_over("second", second.used(), keys, 0.0)
    assert admitted(first, sixty, 0.0, 60) == 0
    # A repeated report counts nothing.
    first.take_over("second", second.used(), keys, 60.0)
    assert admitted(first, sixty, 60.0, 100) == 60
    first.take_over("second", {"unknown": (5, 5)}, keys, 60.0)
    assert set(first.used()) == {sixty.uid}


def test_first_report_of_a_replica_is_a_baseline_and_only_what_follows_is_counted() -> None:
    # An hour at 50 requests a minute, before this replica started.
    limits, both = RateLimits(), key(requests=60, tokens=6000)
    keys = {both.uid: both}
    limits.take_over("old", {both.uid: (3000, 300_000)}, keys, 0.0)
    assert limits.admit(both, 0.0) is None
    limits.take_over("old", {both.uid: (3010, 300_100)}, keys, 0.0)
    remaining = dict(limits.headers(both))
    assert remaining[b"x-ratelimit-remaining-requests"] == b"49"
    assert remaining[b"x-ratelimit-remaining-tokens"] == b"5900"


def test_totals_that_a_restarted_relay_passes_on_again_are_not_charged_again() -> None:
    limits, sixty = RateLimits(), key(requests=60)
    keys = {sixty.uid: sixty}
    limits.take_over("other", {}, keys, 0.0)
    limits.take_over("other", {sixty.uid: (50, 0)}, keys, 0.0)
    limits.forget_replicas([])  # the relay is empty
    limits.take_over("other", {sixty.uid: (50, 0)}, keys, 60.0)
    assert admitted(limits, sixty, 60.0, 100) == 60


def test_totals_of_a_key_that_comes_back_are_not_charged_again() -> None:
    limits, sixty = RateLimits(), key(requests=60)
    keys = {sixty.uid: sixty}
    limits.take_over("other", {sixty.uid: (500, 0)}, keys, 0.0)
    limits.forget_keys([sixty.uid])
    limits.take_over("other", {sixty.uid: (501, 0)}, {}, 0.0)
    limits.take_over("other", {sixty.uid: (502, 0)}, keys, 0.0)
    assert admitted(limits, sixty, 0.0, 100) == 59


def test_first_use_of_a_key_by_a_known_replica_is_counted() -> None:
    limits, sixty = RateLimits(), key(requests=60)
    limits.take_over("other", {}, {sixty.uid: sixty}, 0.0)
    limits.take_over("other", {sixty.uid: (7, 0)}, {sixty.uid: sixty}, 0.0)
    assert admitted(limits, sixty, 0.0, 100) == 53


def test_over_time_two_replicas_together_hold_the_limit() -> None:
    first, second, sixty = RateLimits(), RateLimits(), key(requests=60)
    keys = {sixty.uid: sixty}
    passed = 0
    for now_s in range(600):
        passed += admitted(first, sixty, float(now_s), 3) + admitted(second, sixty, float(now_s), 3)
        first.take_over("second", second.used(), keys, float(now_s))
        second.take_over("first", first.used(), keys, float(now_s))
    # The limit of ten minutes, and the content of both buckets at the start.
    assert passed <= 600 + 120


def test_removed_keys_and_replicas_are_dropped() -> None:
    limits, sixty = RateLimits(), key(requests=60)
    limits.admit(sixty, 0.0)
    limits.take_over("second", {sixty.uid: (1, 0)}, {sixty.uid: sixty}, 0.0)
    limits.forget_replicas([])
    limits.forget_keys([sixty.uid])
    limits.charge_tokens(sixty, 5, 0.0)  # of a request that was admitted before
    assert limits.used() == {}
