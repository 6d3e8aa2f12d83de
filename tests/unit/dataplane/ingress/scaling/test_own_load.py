"""What an ingress replica reports as its load."""

from __future__ import annotations

import pytest

from dataplane.ingress.scaling.own_load import OwnLoad


class World:
    """A process under test: its clock, its CPU and its requests."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cpu_s = 50.0
        self.requests = 0
        self.load = OwnLoad(
            target_cpu=0.5,
            target_requests=100,
            requests=lambda: self.requests,
            cpu_s=lambda: self.cpu_s,
            monotonic=lambda: self.now,
        )

    def run(self, seconds: float, cpu: float, step_s: float = 2.0) -> None:
        """Let time pass while the process uses `cpu` cores, with looks at the load."""
        for _ in range(int(seconds / step_s)):
            self.now += step_s
            self.cpu_s += cpu * step_s
            self.load.in_replicas()


def test_a_steady_use_of_cpu_is_the_load_in_targets() -> None:
    world = World()
    world.run(120, cpu=0.75)
    assert world.load.in_replicas() == pytest.approx(1.5, rel=0.01)
    world.run(120, cpu=0)
    assert world.load.in_replicas() == pytest.approx(0, abs=0.01)


def test_a_burst_of_a_second_is_smoothed_and_how_often_one_looks_does_not_matter() -> None:
    often, seldom = World(), World()
    often.run(1, cpu=1.0, step_s=0.1)
    seldom.run(1, cpu=1.0, step_s=1.0)
    assert often.load.in_replicas() == pytest.approx(seldom.load.in_replicas(), rel=0.01)
    assert often.load.in_replicas() < 0.25


def test_requests_count_where_they_are_more_than_the_cpu() -> None:
    world = World()
    world.run(60, cpu=0.25)
    world.requests = 250
    assert world.load.in_replicas() == 2.5


def test_a_look_at_the_same_instant_divides_by_nothing() -> None:
    world = World()
    assert world.load.in_replicas() == world.load.in_replicas() == 0
