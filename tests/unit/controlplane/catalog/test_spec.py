"""Defaults of model specs, and the checks that need more than one field."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from broadsheet.v1 import model_pb2
from controlplane import errors
from controlplane.catalog import spec
from protocol.validation import violations_of


def parsed(**fields: Any) -> model_pb2.ModelSpec:
    return json_format.ParseDict({"source": {"uri": "file:///m"}, **fields}, model_pb2.ModelSpec())


def refused(**fields: Any) -> errors.InvalidArgument:
    with pytest.raises(errors.InvalidArgument) as caught:
        spec.resolved(parsed(**fields))
    return caught.value


def test_every_default_is_filled_in_as_the_proto_states_it() -> None:
    assert json_format.MessageToDict(spec.resolved(parsed(lora={}))) == {
        "source": {"uri": "file:///m"},
        "engine": {"kind": "KIND_VLLM", "args": {}},
        "resources": {"cpus": 1.0, "tensorParallelSize": 1, "pipelineParallelSize": 1},
        "scaling": {
            "maxReplicas": 1,
            "initialReplicas": 1,
            "targetOngoingRequests": 16.0,
            "upscaleDelay": "10s",
            "downscaleDelay": "120s",
            "downscaleToZeroDelay": "300s",
        },
        "admission": {
            "maxOngoingRequests": 1024,
            "maxQueuedRequests": 1000,
            "queueTimeout": "30s",
            "coldStartTimeout": "600s",
        },
        "lora": {"maxAdapters": 4, "maxRank": 16},
    }


def test_a_resolved_spec_is_valid_and_stays_as_it_is() -> None:
    once = spec.resolved(parsed(engine={"args": {"max-model-len": 2048}}, scaling={"minReplicas": 3}))
    assert violations_of(once) == ()
    assert spec.resolved(once) == once


def test_resolving_does_not_change_its_argument() -> None:
    asked = parsed()
    spec.resolved(asked)
    assert asked == parsed()


def test_a_stated_zero_is_not_replaced_by_a_default() -> None:
    resolved = spec.resolved(parsed(resources={"cpus": 0}, admission={"maxQueuedRequests": 0, "queueTimeout": "0s"}))
    assert resolved.resources.cpus == 0
    assert resolved.admission.max_queued_requests == 0
    assert resolved.admission.queue_timeout.seconds == 0


def test_replicas_default_to_the_minimum() -> None:
    scaling = spec.resolved(parsed(scaling={"minReplicas": 3})).scaling
    assert (scaling.max_replicas, scaling.initial_replicas) == (3, 3)


def test_no_lora_stays_no_lora() -> None:
    assert not spec.resolved(parsed()).HasField("lora")


def test_simulated_needs_no_source_and_no_cpu() -> None:
    asked = parsed(engine={"kind": "KIND_SIMULATED"})
    asked.ClearField("source")
    assert spec.resolved(asked).resources.cpus == 0


def test_vllm_needs_a_source() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        spec.resolved(model_pb2.ModelSpec())
    assert [violation.field for violation in caught.value.violations] == ["spec.source"]


@pytest.mark.parametrize(
    ("resources", "allowed"),
    [
        ({}, True),
        ({"tensorParallelSize": 2}, True),
        ({"accelerators": 1}, True),
        ({"accelerators": 8, "tensorParallelSize": 4, "pipelineParallelSize": 2}, True),
        ({"accelerators": 2}, False),
        ({"accelerators": 4, "tensorParallelSize": 4, "pipelineParallelSize": 2}, False),
    ],
)
def test_accelerators_are_the_product_of_the_parallel_sizes(resources: dict[str, int], allowed: bool) -> None:
    if allowed:
        spec.resolved(parsed(resources=resources))
        return
    (violation,) = refused(resources=resources).violations
    assert violation.field == "spec.resources.accelerators"
    assert f"got {resources['accelerators']}" in violation.description


def test_accelerator_type_needs_accelerators() -> None:
    (violation,) = refused(resources={"acceleratorType": "H100"}).violations
    assert violation.field == "spec.resources.accelerator_type"


def test_initial_replicas_are_not_below_the_minimum() -> None:
    (violation,) = refused(scaling={"minReplicas": 2, "maxReplicas": 4, "initialReplicas": 1}).violations
    assert violation.field == "spec.scaling.initial_replicas"


@pytest.mark.parametrize("uri", ["file:///a/../b", "file:///a/./b", "file:///a%20b", "file:///a?b", "file:///a#b"])
def test_file_sources_mean_one_path_only(uri: str) -> None:
    (violation,) = refused(source={"uri": uri}).violations
    assert violation.field == "spec.source.uri"


def test_file_sources_have_no_revision() -> None:
    (violation,) = refused(source={"uri": "file:///a", "revision": "main"}).violations
    assert violation.field == "spec.source.revision"
    spec.resolved(parsed(source={"uri": "hf://org/name", "revision": "main"}))


def test_all_violations_are_reported_together() -> None:
    error = refused(
        source={"uri": "file:///a/../b"},
        resources={"accelerators": 3},
        scaling={"minReplicas": 2, "maxReplicas": 4, "initialReplicas": 1},
        engine={"args": {"--dtype": "auto"}},
    )
    assert [violation.field for violation in error.violations] == [
        "spec.source.uri",
        "spec.resources.accelerators",
        "spec.scaling.initial_replicas",
        'spec.engine.args["--dtype"]',
    ]


def test_fields_of_a_newer_release_are_left_out() -> None:
    # Field 1000, a varint.
    asked = model_pb2.ModelSpec.FromString(parsed().SerializeToString() + b"\xc0\x3e\x01")
    assert asked.SerializeToString() != parsed().SerializeToString()
    assert spec.resolved(asked).SerializeToString() == spec.resolved(parsed()).SerializeToString()


def test_sleep_needs_an_engine_that_can_sleep() -> None:
    (violation,) = refused(scaling={"idle": "IDLE_SLEEP"}).violations
    assert violation.field == "spec.scaling.idle"
    assert "got SLEEP" in violation.description
    assert "allowed here: ZERO" in violation.description
    on_gpu = parsed(scaling={"idle": "IDLE_SLEEP"}, resources={"accelerators": 1})
    simulated = parsed(scaling={"idle": "IDLE_SLEEP"}, engine={"kind": "KIND_SIMULATED"})
    for asked in (on_gpu, simulated):
        assert spec.resolved(asked).scaling.idle == model_pb2.Scaling.IDLE_SLEEP


def test_the_default_of_idle_has_one_spelling() -> None:
    assert spec.resolved(parsed(scaling={"idle": "IDLE_ZERO"})) == spec.resolved(parsed())
