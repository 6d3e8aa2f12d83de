"""Which engine arguments run code, read files or reach hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from protocol.engine_args import allowed_name, privileged


def found(args: Mapping[str, Any], *allowed: str) -> list[str]:
    return [item.name for item in privileged(json_format.ParseDict(dict(args), struct_pb2.Struct()), allowed)]


@pytest.mark.parametrize(
    "name",
    [
        "trust_remote_code",
        "worker_cls",
        "worker_extension_cls",
        "scheduler_cls",
        "tool_parser_plugin",
        "reasoning_parser_plugin",
        "io_processor_plugin",
        "logits_processors",
        "model_class_overrides",
        "log_config_file",
        "allowed_local_media_path",
        "allowed_media_domains",
        "tokenizer",
        "hf_config_path",
        "download_dir",
        "code_revision",
        "tool_server",
        "kv_transfer_config",
        "kv_transfer_config.kv_port",
        "chat_template",
        "generation_config",
        "distributed_executor_backend",
        "otlp_traces_endpoint",
        "spec_model",
    ],
)
def test_arguments_that_run_code_read_files_or_reach_hosts_are_privileged(name: str) -> None:
    assert found({name: "x"}) == [name.partition(".")[0]]
    assert found({name.replace("_", "-"): "x"}) == [name.partition(".")[0]]


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ({"speculative_config": {"method": "eagle", "model": "org/other"}}, "speculative_config.model"),
        ({"speculative_config.model": "org/other"}, "speculative_config.model"),
        ({"compilation_config": {"inductor_passes": {"a": "os.system"}}}, "compilation_config.inductor_passes"),
        ({"compilation_config": {"backend": "my.module.compile"}}, "compilation_config.backend"),
        (
            {"structured_outputs_config": {"reasoning_parser_plugin": "x"}},
            "structured_outputs_config.reasoning_parser_plugin",
        ),
        ({"ec_manager_config": {"encoder_cache_manager_cls": "x.Y"}}, "ec_manager_config.encoder_cache_manager_cls"),
        ({"hf_overrides": {"a": [{"b": "/etc/passwd"}]}}, "hf_overrides.a.b"),
        ({"hf_overrides.quantization_config": "../x.json"}, "hf_overrides.quantization_config"),
        ({"quantization": "~/plan"}, "quantization"),
        ({"ignore_patterns": ["x", "file:///etc"]}, "ignore_patterns"),
        ({"speculative_config": ' {"model": "org/other"}'}, "speculative_config.model"),
        ({"compilation_config": '{"mode": 3, "backend": "os.system"}'}, "compilation_config.backend"),
        ({"compilation_config": '{"backend": "os.system", "backend": "eager"}'}, "compilation_config"),
        ({"hf_overrides": "{" * 100_000}, "hf_overrides"),
        ({"hf_overrides": '{"a":' * 100_000 + "1" + "}" * 100_000}, "hf_overrides"),
        ({"no_trust_remote_code": False}, "trust_remote_code"),
    ],
)
def test_what_lies_below_an_argument_is_looked_at(args: Mapping[str, Any], name: str) -> None:
    assert found(args) == [name]


@pytest.mark.parametrize(
    "args",
    [
        {"max_model_len": 2048, "enforce_eager": True, "dtype": "float32", "tool_call_parser": "hermes"},
        {"trust_remote_code": False},
        {"no_trust_remote_code": True},
        {"chat_template": "/{{ messages }}"},
        {"generation_config": "vllm"},
        {"distributed_executor_backend": "ray"},
        {"compilation_config": {"backend": "inductor", "mode": 3}},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
        {"speculative_config": '{"method": "ngram"}'},
        {"hf_overrides": {"rope_scaling": {"rope_type": "yarn", "factor": 4}}},
    ],
)
def test_other_arguments_are_anybodys(args: Mapping[str, Any]) -> None:
    assert found(args) == []


def test_a_privileged_argument_is_allowed_by_its_name_or_by_what_it_is_below() -> None:
    args = {"trust-remote-code": True, "speculative_config": {"model": "org/other"}, "worker_cls": "x.Y"}
    assert found(args) == ["speculative_config.model", "trust_remote_code", "worker_cls"]
    assert found(args, "trust_remote_code", "speculative_config.model") == ["worker_cls"]
    assert found(args, "trust_remote_code", "speculative_config") == ["worker_cls"]
    assert found(args, "speculative") == ["speculative_config.model", "trust_remote_code", "worker_cls"]
    assert found(args, "*") == []


def test_names_to_allow_have_one_spelling() -> None:
    assert allowed_name("trust-remote-code") == "trust_remote_code"
    assert allowed_name("hf-overrides.a-b") == "hf_overrides.a-b"
    assert allowed_name("*") == "*"


@pytest.mark.parametrize("text", ["--trust-remote-code", "a b", "trust*", "", "middleware", "api-key"])
def test_what_cannot_be_allowed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="got "):
        allowed_name(text)
