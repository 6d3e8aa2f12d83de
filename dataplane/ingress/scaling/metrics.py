"""Metrics of an ingress replica about itself: its connections and its load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_GAUGES = {
    "connections": "Open connections of callers.",
    "siblings": "Other replicas of the node that take connections from this one.",
    "load": "Work of this replica, in replicas: 1 is its target of CPU or of requests. Autoscaling adds it up.",
}
_COUNTERS = {
    "cpu_seconds": "CPU that the replica's process has used.",
    "connections_handed_over": "Connections handed to another replica of the node, which had fewer.",
    "connections_taken_back": "Of these, those that it did not take.",
}


class ReplicaMetrics(Collector):
    """Reads the values when it is scraped."""

    def __init__(self, replica: str, read: Mapping[str, Callable[[], float]]) -> None:
        """
        Args:
            replica: Id of the replica.
            read: The value of each metric, by its name without the prefix.
        """
        self._replica = replica
        self._read = read

    def collect(self) -> Iterator[Metric]:
        kinds: tuple[tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], Mapping[str, str]], ...] = (
            (GaugeMetricFamily, _GAUGES),
            (CounterMetricFamily, _COUNTERS),
        )
        for kind, texts in kinds:
            for name, text in texts.items():
                family = kind(f"broadsheet_ingress_{name}", text, labels=("replica",))
                family.add_metric((self._replica,), self._read[name]())
                yield family
