"""Dashboards show metrics that exist."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controlplane.metrics.metrics import Metrics

DASHBOARDS = sorted((Path(__file__).resolve().parents[2] / "deploy" / "dashboards").glob("*.json"))


def series(registry: CollectorRegistry) -> set[str]:
    """Names that a query may use."""
    found: set[str] = set()
    for family in registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found.update(family.name + suffix for suffix in suffixes)
    return found


@pytest.fixture(scope="module")
def shown() -> set[str]:
    metrics = Metrics(clock=time.monotonic)
    metrics.count_streams(dict)
    metrics.count_data_planes(dict)
    metrics.count_lags(dict)
    metrics.show_audit_backlog(lambda: 0.0)
    metrics.count_behind_with_revocations(int)
    metrics.count_waves(dict, lambda: 0, lambda: 0)
    return series(metrics.registry)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_every_query_is_about_a_metric_that_exists(dashboard: Path, shown: set[str]) -> None:
    panels = json.loads(dashboard.read_text())["panels"]
    assert panels
    used = set()
    for panel in panels:
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            named = set(re.findall(r"\bbroadsheet_\w+", target["expr"]))
            assert named, panel["title"]
            assert named <= shown, panel["title"]
            used |= named
    missing = {name.rsplit("_bucket")[0] for name in shown if name.startswith("broadsheet_")} - {
        name.rsplit("_bucket")[0] for name in used
    }
    assert {name for name in missing if not name.endswith(("_sum", "_count"))} == set(), "not on the dashboard"


def test_there_is_a_dashboard() -> None:
    assert DASHBOARDS
