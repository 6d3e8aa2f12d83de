"""The measurement of large fleets runs, and its numbers are those of the machines."""

from __future__ import annotations

from tests.simulation import scale
from tests.simulation.virtual.environment import FLIGHTS_OF_ONE, patched


def test_row_of_a_control_plane_has_the_bytes_of_one_changed_adapter() -> None:
    with patched([FLIGHTS_OF_ONE]):
        cells = scale._control_plane(20).split("|")
    assert len(cells) == 6
    assert 100 < int(cells[4]) < 1000


def test_row_of_a_data_plane_has_the_size_of_its_catalog() -> None:
    cells = scale._data_plane(1_000).split("|")
    assert len(cells) == 7
    assert cells[0].strip() == "1,000"
    assert 0.1 < float(cells[1]) < 1.0
