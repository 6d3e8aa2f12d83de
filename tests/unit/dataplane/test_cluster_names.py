"""Names on a Ray cluster that several data planes share."""

from __future__ import annotations

from dataplane.cluster_names import in_data_plane, on_cluster


def test_a_name_is_found_again_by_its_own_data_plane_only() -> None:
    name = on_cluster("broadsheet-m-0123456789ab", "eu-1")
    assert in_data_plane(name, "eu-1") == "broadsheet-m-0123456789ab"
    assert [in_data_plane(name, other) for other in ("1", "eu", "eu-1.b", "u-1")] == [None] * 4


def test_a_name_without_a_data_plane_is_of_none() -> None:
    assert in_data_plane("broadsheet-agent", "local") is None
