"""How many ingress replicas the policy asks for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dataplane.ingress.scaling.policy import LOAD, replicas_for_load


@pytest.mark.parametrize(
    ("loads", "current", "wanted"),
    [
        ([], 2, 1),  # the least that is configured is Ray Serve's to keep
        ([0.4, 0.5], 2, 2),
        ([1.0, 1.0], 2, 2),
        ([1.2, 0.9], 2, 3),
        ([5.0], 1, 5),
        ([0.5, 0.5, 0.5], 3, 2),
        ([0.6, 0.6, 0.6], 3, 3),  # two of them would be at 0.9, and soon three again
        ([0.0, 0.0], 2, 1),
    ],
)
def test_replicas_follow_the_load_and_shrink_with_a_margin(loads: list[float], current: int, wanted: int) -> None:
    context = SimpleNamespace(aggregated_metrics={LOAD: dict(enumerate(loads))}, target_num_replicas=current)
    assert replicas_for_load(context) == (wanted, {})


def test_without_reports_nothing_grows() -> None:
    assert replicas_for_load(SimpleNamespace(aggregated_metrics=None, target_num_replicas=3)) == (1, {})
