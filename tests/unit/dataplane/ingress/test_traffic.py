"""Which requests count as answered, and which of them as failed."""

from __future__ import annotations

import pytest

from dataplane.ingress.traffic import TrafficCount


@pytest.mark.parametrize(
    ("kind", "status", "broke_off", "counted"),
    [
        ("model", 200, False, (1, 0)),
        ("adapter", 400, False, (1, 0)),
        ("model", 499, False, (1, 0)),
        ("model", 500, False, (1, 1)),
        ("model", 200, True, (1, 1)),
        # Nothing answered it: a model that cannot start is a failure, an unknown name is none.
        ("none", 503, False, (1, 1)),
        ("none", 404, False, (0, 0)),
        ("none", 401, False, (0, 0)),
        ("none", 200, False, (0, 0)),
    ],
)
def test_failures_are_those_that_no_caller_is_to_blame_for(
    kind: str, status: int, broke_off: bool, counted: tuple[int, int]
) -> None:
    traffic = TrafficCount()
    traffic.count(kind, status, broke_off=broke_off)
    assert (traffic.requests, traffic.failures) == counted
