"""Which engine arguments users may set."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from broadsheet.v1 import model_pb2
from controlplane import errors
from controlplane.catalog import engine_args, spec
from protocol.validation import FieldViolation


def struct(args: dict[str, Any]) -> struct_pb2.Struct:
    return json_format.ParseDict(args, struct_pb2.Struct())


def fields(violations: tuple[FieldViolation, ...]) -> list[str]:
    return [violation.field for violation in violations]


@pytest.mark.parametrize(
    "flag",
    [
        "port",
        "host",
        "uds",
        "api_key",
        "api-key",
        "API_KEY",
        "served_model_name",
        "model",
        "enable_lora",
        "no_enable_lora",
        "no-enable-lora",
        "lora_modules",
        "max_loras",
        "max_lora_rank",
        "max_cpu_loras",
        "tensor_parallel_size",
        "pipeline-parallel-size",
        "device_ids",
        "data_parallel_size",
        "data_parallel_rpc_port",
        "ssl_keyfile",
        "root_path",
        "middleware",
        "headless",
        "config",
        "allowed_origins",
        "hf_token",
        "middleware.x",
    ],
)
def test_a_reserved_argument_is_refused_with_advice(flag: str) -> None:
    (violation,) = engine_args.reserved(struct({flag: "x"}))
    assert violation.field == f'spec.engine.args["{flag}"]'
    assert len(violation.description) > len("not allowed: ")


@pytest.mark.parametrize(("short", "owner"), [("por", "port"), ("api_k", "api_key"), ("served", "served_model_name")])
def test_an_abbreviation_of_a_reserved_argument_is_refused(short: str, owner: str) -> None:
    (violation,) = engine_args.reserved(struct({short: "x"}))
    assert f"short for {owner}" in violation.description


@pytest.mark.parametrize(
    "flag",
    [
        "tokenizer",
        "dtype",
        "max_model_len",
        "enforce_eager",
        "no_enable_prefix_caching",
        "distributed_executor_backend",
        "download_dir",
        "config_format",
        "model_impl",
        "model_loader_extra_config",
        "hf_overrides.rope_scaling",
        "hf_config_path",
        "max_num_seqs",
        "lora_dtype",
        "fully_sharded_loras",
        "tokenizer_revision",
        "code_revision",
        "enable_expert_parallel",
        "chat_template",
        "gpu_memory_utilization",
        "kv_transfer_config.kv_port",
    ],
)
def test_other_arguments_are_accepted(flag: str) -> None:
    assert engine_args.reserved(struct({flag: "x"})) == ()
    assert engine_args.malformed(struct({flag: "x"})) == ()


@pytest.mark.parametrize("key", ["", "--dtype", "-dtype", "a b", "1a", "a=b", "x" * 200, "é", "a\n"])
def test_a_key_that_is_not_a_flag_is_malformed(key: str) -> None:
    assert fields(engine_args.malformed(struct({key: 1}))) == [engine_args.path(key)]


def test_one_flag_in_two_spellings_is_malformed() -> None:
    assert fields(engine_args.malformed(struct({"max-model-len": 1, "max_model_len": 2}))) == [
        engine_args.path("max_model_len")
    ]


def test_values_are_json() -> None:
    nan = struct_pb2.Value(number_value=float("nan"))
    args = struct_pb2.Struct(fields={"a": nan})
    args["b"] = None
    args["c"] = {"d": [1, float("inf")]}
    args["e"] = {"f": None}
    assert fields(engine_args.malformed(args)) == [engine_args.path(key) for key in "abc"]


def test_flags_get_a_single_spelling_and_values_stay_as_they_are() -> None:
    args = struct({"max-model-len": 8, "hf-overrides.rope-scaling": {"a-b": [True, "c-d"]}})
    assert engine_args.normalised(args) == struct(
        {"max_model_len": 8, "hf_overrides.rope-scaling": {"a-b": [True, "c-d"]}}
    )


def test_registration_refuses_reserved_arguments_of_vllm_only() -> None:
    asked = model_pb2.ModelSpec(source=model_pb2.Source(uri="file:///m"))
    asked.engine.args["port"] = 8000
    with pytest.raises(errors.InvalidArgument) as caught:
        spec.resolved(asked)
    assert caught.value.reason == errors.Reason.ENGINE_ARGUMENT_RESERVED
    asked.engine.kind = model_pb2.Engine.KIND_SIMULATED
    spec.resolved(asked)


def test_registration_refuses_arguments_that_the_operator_has_not_allowed() -> None:
    asked = model_pb2.ModelSpec(source=model_pb2.Source(uri="file:///m"))
    asked.engine.args["trust-remote-code"] = True
    spec.resolved(asked)
    spec.resolved(asked, ("trust_remote_code",))
    with pytest.raises(errors.InvalidArgument) as caught:
        spec.resolved(asked, ())
    assert caught.value.reason == errors.Reason.ENGINE_ARGUMENT_NOT_ALLOWED
    (violation,) = caught.value.violations
    assert violation.field == 'spec.engine.args["trust-remote-code"]'
    assert "--allowed-engine-args" in violation.description
    asked.engine.kind = model_pb2.Engine.KIND_SIMULATED
    spec.resolved(asked, ())


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [
        ("code_revision", 0o123456, "the number 42798"),
        ("tokenizer-revision", 1.5, "the number 1.5"),
        ("speculative_config.revision", 12345678, "the number 12345678"),
        ("quantization", 8, "the number 8"),
        ("tool_call_parser", True, "true"),
        ("ignore_patterns", ["x", 7], "the number 7"),
    ],
)
def test_a_number_for_an_argument_of_text_is_malformed(key: str, value: object, got: str) -> None:
    (violation,) = engine_args.malformed(struct({key: value}))
    assert violation.field == engine_args.path(key)
    assert violation.description == f"got {got}: it takes text; put it in quotes"


def test_text_and_what_is_not_for_text_stay_as_they_are() -> None:
    args = {"code_revision": "0123456", "ignore_patterns": ["7"], "max_model_len": 7, "optimization_level": 3}
    assert engine_args.malformed(struct(args)) == ()
