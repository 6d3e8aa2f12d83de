"""The agent's clock."""

from __future__ import annotations

from dataplane.agent.steady_clock import steady_clock


def test_step_of_the_time_of_day_does_not_move_the_clock() -> None:
    wall, monotonic = [1000.0], [5.0]
    clock = steady_clock(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    assert clock() == 1000.0
    wall[0], monotonic[0] = 4600.0, 7.0
    assert clock() == 1002.0
