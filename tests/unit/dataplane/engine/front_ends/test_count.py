from __future__ import annotations

import pytest

from dataplane.engine.front_ends.count import FRONT_ENDS_MAX, front_end_count


@pytest.mark.parametrize(
    ("cores", "parameters", "count"),
    [(1, 1e8, 1), (4, 1e8, 1), (8, 1e8, 2), (16, 8e9, 4), (128, 8e9, 4), (128, 7e10, 2), (4, 7e10, 1)],
)
def test_on_an_accelerator_it_follows_cores_and_size(cores: int, parameters: float, count: int) -> None:
    assert front_end_count(asked=None, prefers_one=False, cores=cores, parameters=parameters) == count


def test_an_engine_that_prefers_one_gets_one() -> None:
    assert front_end_count(asked=None, prefers_one=True, cores=128, parameters=1e8) == 1


@pytest.mark.parametrize("asked", [1, 3, FRONT_ENDS_MAX])
def test_a_model_may_ask_for_a_number(asked: int) -> None:
    assert front_end_count(asked=asked, prefers_one=True, cores=1, parameters=1e12) == asked


@pytest.mark.parametrize("asked", [0, -1, FRONT_ENDS_MAX + 1])
def test_a_number_out_of_range_is_refused(asked: int) -> None:
    with pytest.raises(ValueError, match="takes a whole number from 1 to 16"):
        front_end_count(asked=asked, prefers_one=False, cores=64, parameters=1e8)
