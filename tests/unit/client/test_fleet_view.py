"""What the command line shows of a data plane."""

from __future__ import annotations

import io
import re

from rich.console import Console

from broadsheet.cli.view.fleet import data_plane_view
from broadsheet.v1 import snapshot_service_pb2
from broadsheet.v1.fleet_service_pb2 import DataPlane


def shown(plane: DataPlane) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(data_plane_view(plane))
    return console.export_text()


def test_what_a_data_plane_waits_for_is_shown() -> None:
    plane = DataPlane(name="dataPlanes/a", phase=snapshot_service_pb2.PHASE_PREPARED)
    assert "Waits for" not in shown(plane)
    plane.message = "ingress replicas that do not decide by it yet: b"
    assert f"Waits for  {plane.message}" in shown(plane)


def test_a_warning_about_the_snapshot_in_service_is_shown() -> None:
    message = "served from memory, and not on the disk of the data plane"
    plane = DataPlane(name="dataPlanes/a", phase=snapshot_service_pb2.PHASE_ACTIVE, message=message)
    assert f"Warning    {message}" in shown(plane)


def test_why_a_data_plane_rejects_a_snapshot_is_shown() -> None:
    plane = DataPlane(name="dataPlanes/a", phase=snapshot_service_pb2.PHASE_REJECTED, reason="R", message="words")
    assert "R: words" in shown(plane)


def test_revocations_that_a_data_plane_lacks_are_shown() -> None:
    plane = DataPlane(name="dataPlanes/a", revocations_sequence=4)
    assert "Revoked    4\n" in re.sub(r" +\n", "\n", shown(plane))
    plane.revocations_missing = 2
    assert "Revoked    4, lacks 2" in shown(plane)
