from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import ray

from dataplane.node import cores_beside


@pytest.mark.parametrize(
    ("resources", "accelerators", "cores"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, 1, 8),
        ({"CPU": 64.0, "GPU": 8.0}, 8, 64),
        ({"CPU": 64.0, "GPU": 1.0}, 1, 64),
        ({"CPU": 16.0, "GPU": 1.0}, 1, 16),
        ({"GPU": 2.0}, 1, 32),
        ({"CPU": 64.0}, 0, 64),
        ({"CPU": 64.0, "GPU": 2.0}, 4, 64),
    ],
)
def test_a_replica_has_its_share_of_the_cores_of_its_node(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], accelerators: int, cores: int
) -> None:
    nodes = [{"NodeID": "other", "Resources": {"CPU": 2.0}}, {"NodeID": "own", "Resources": resources}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "own"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert cores_beside(accelerators) == cores
