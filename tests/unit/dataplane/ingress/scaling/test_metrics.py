"""What an ingress replica shows about itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from dataplane.ingress.scaling.metrics import ReplicaMetrics

NAMES = ("connections", "siblings", "load", "cpu_seconds", "connections_handed_over", "connections_taken_back")


def test_each_value_is_read_when_it_is_asked_for_and_has_its_replica() -> None:
    values = dict.fromkeys(NAMES, 1.0)
    registry = CollectorRegistry()
    registry.register(ReplicaMetrics("r1", {name: lambda name=name: values[name] for name in NAMES}))  # type: ignore[misc]
    values["connections"] = 7
    text = generate_latest(registry).decode()
    assert 'broadsheet_ingress_connections{replica="r1"} 7.0' in text
    for name in ("cpu_seconds", "connections_handed_over", "connections_taken_back"):
        assert f'broadsheet_ingress_{name}_total{{replica="r1"}} 1.0' in text
