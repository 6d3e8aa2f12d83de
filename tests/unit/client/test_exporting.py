"""Any resource that can be registered survives export and reading."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet import exporting
from broadsheet.specs.declared import load_declared
from broadsheet.specs.requests import OWNER_LABEL
from broadsheet.types import Adapter, Model, Route
from broadsheet.v1.registry_service_pb2 import RegisterModelRequest
from protocol.validation import violations_of

IDS = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.from_regex(r"[A-Za-z0-9._:/@-]{1,20}", fullmatch=True)
# What YAML might take for something else, and any text that a proto may hold.
TEXT = st.one_of(
    st.sampled_from(["", "yes", "null", "1e3", "007", "2026-01-01", "- a", "a: b", "#", "'", "\n", " x ", "\x85", "é"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
LABELS = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,9}[A-Za-z0-9])?", fullmatch=True), TEXT, max_size=3
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        TEXT,
        st.integers(-(1 << 53), 1 << 53),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
DURATIONS = st.one_of(
    st.integers(1, 3600).map(lambda seconds: f"{seconds}s"), st.integers(1, 999).map(lambda ms: f"0.{ms:03d}s")
)
CARDS = st.fixed_dictionaries(
    {},
    optional={
        "displayName": TEXT,
        "description": TEXT,
        "contextWindow": st.integers(0, 1 << 62).map(str),
        "tags": st.lists(TEXT.filter(bool), unique=True, max_size=3),
    },
)
SPECS = st.fixed_dictionaries(
    {
        "engine": st.fixed_dictionaries(
            {"kind": st.just("KIND_SIMULATED")}, optional={"args": st.dictionaries(TEXT, JSON, max_size=4)}
        )
    },
    optional={
        "source": st.just({"uri": "hf://org/name", "revision": "main"}),
        "resources": st.fixed_dictionaries(
            {}, optional={"cpus": st.floats(0, 1024), "memoryBytes": st.integers(0, 1 << 62).map(str)}
        ),
        "scaling": st.fixed_dictionaries({}, optional={"minReplicas": st.integers(0, 3), "downscaleDelay": DURATIONS}),
        "lora": st.fixed_dictionaries({}, optional={"maxRank": st.sampled_from([8, 16])}),
    },
)


def read_back(text: str) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.yaml"
        path.write_text(text, encoding="utf-8")
        (declared,) = load_declared([path])
    return declared.request


@settings(max_examples=300, deadline=None)
@given(IDS, NAMES, LABELS, SPECS, CARDS)
def test_any_exported_model_reads_back_equal(
    model_id: str, served_name: str, labels: Any, spec: Any, card: Any
) -> None:
    fields = {
        "name": f"models/{model_id}",
        "servedName": served_name,
        "labels": {**labels, OWNER_LABEL: "somebody"},
        "revision": {"spec": spec, "card": card},
    }
    request = exporting.request_of(json_format.ParseDict(fields, Model()))
    assert not violations_of(request)
    assert OWNER_LABEL not in request.labels
    assert read_back(exporting.to_yaml(request)) == request


def test_exported_adapters_and_routes_read_back_equal() -> None:
    adapter = json_format.ParseDict(
        {
            "name": "models/m/adapters/a",
            "servedName": "m:a",
            "labels": {"team": "x"},
            "revision": {"source": {"uri": "file:///lora"}, "card": {"license": "MIT"}, "weights": {"rank": 4}},
        },
        Adapter(),
    )
    route = json_format.ParseDict(
        {
            "name": "routes/r",
            "servedName": "r",
            "revision": {
                "spec": {
                    "targets": [
                        {"resource": "models/m", "weight": 90},
                        {"resource": "models/m/adapters/a", "weight": 0},
                    ],
                    "fallbacks": [{"resource": "models/n", "conditions": ["CONDITION_QUEUE_FULL"]}],
                }
            },
        },
        Route(),
    )
    for resource in (adapter, route):
        request = exporting.request_of(resource)
        assert not violations_of(request)
        assert read_back(exporting.to_yaml(request)) == request


def test_a_negative_zero_in_engine_args_reads_back_equal() -> None:
    request = json_format.ParseDict(
        {"modelId": "m", "servedName": "m", "spec": {"engine": {"args": {"low": -0.0}}}}, RegisterModelRequest()
    )
    assert read_back(exporting.to_yaml(request)) == request
