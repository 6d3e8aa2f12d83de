from __future__ import annotations

import time

import pytest

from dataplane.snapshot.api_key import ApiKey
from tests import views


@pytest.mark.parametrize(("name", "allowed"), [("a" * 256, True), ("a" * 257, False), ("b", False)])
def test_a_name_is_allowed_by_a_pattern_if_it_may_exist(name: str, allowed: bool) -> None:
    assert ApiKey.of(views.api_key("alice", "bs-alice", "a*", "x")).may_use(name) == allowed


def test_a_name_of_megabytes_is_matched_with_no_pattern() -> None:
    key = ApiKey.of(views.api_key("alice", "bs-alice", *(f"*{letter}*x" for letter in "abcdefghij")))
    started = time.thread_time()
    assert not key.may_use("z" * 20_000_000)
    assert time.thread_time() - started < 0.1
