from __future__ import annotations

import pytest

from tests.bench.ingress.shown.slope import second_half, slope


def test_the_slope_of_a_line_is_exact() -> None:
    assert slope([(0.0, 5.0), (1.0, 8.0), (2.0, 11.0)]) == pytest.approx(3.0)


def test_noise_around_a_level_has_no_slope() -> None:
    assert slope([(0.0, 1.0), (1.0, -1.0), (2.0, -1.0), (3.0, 1.0)]) == pytest.approx(0.0)


def test_points_at_one_time_have_no_slope() -> None:
    with pytest.raises(ValueError, match="at least two are needed"):
        slope([(1.0, 1.0), (1.0, 2.0)])


def test_the_second_half_begins_in_the_middle_of_the_time() -> None:
    points = [(0.0, 9.0), (1.0, 9.0), (2.0, 9.0), (8.0, 1.0), (10.0, 1.0)]
    assert list(second_half(points)) == [(8.0, 1.0), (10.0, 1.0)]
    assert list(second_half([])) == []
