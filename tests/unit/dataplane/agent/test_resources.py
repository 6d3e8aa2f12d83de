"""Amounts of resources."""

from __future__ import annotations

from broadsheet.v1 import model_pb2
from dataplane.agent.resources import added, missing, resources_of, subtracted


def test_resources_of_a_spec_have_rays_names_and_leave_out_what_is_zero() -> None:
    spec = model_pb2.ModelSpec()
    assert resources_of(spec) == {}
    spec.resources.cpus, spec.resources.accelerators, spec.resources.memory_bytes = 0.5, 2, 1024
    assert resources_of(spec) == {"CPU": 0.5, "GPU": 2.0, "memory": 1024.0}


def test_missing_names_are_zero() -> None:
    assert added({"CPU": 1}, {"CPU": 2, "GPU": 1}) == {"CPU": 3, "GPU": 1}
    assert subtracted({"CPU": 1}, {"GPU": 1}) == {"CPU": 1, "GPU": -1}
    assert missing({"CPU": 1, "GPU": 1}, {"CPU": 1}) == ["GPU"]
    assert missing({"CPU": 1}, {"CPU": 1}) == []
