"""Engine arguments as words for the flags of vLLM's parser. The flags themselves are tested in
tests/e2e/test_engine_args.py and tests/vllm_arguments.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from dataplane.engine.vllm.flags import Argument, Flag, Takes, arguments
from dataplane.errors import EngineStartError
from protocol.engine_args import RESERVED


def flag(name: str, takes: Takes, opposite: str | None = None) -> Flag:
    return Flag(word="--" + name, destination=name.replace("-", "_"), takes=takes, opposite=opposite)


FLAGS = {
    made.word: made
    for made in (
        flag("max-model-len", Takes.ONE),
        flag("gpu-memory-utilization", Takes.ONE),
        flag("chat-template", Takes.ONE),
        flag("hf-overrides", Takes.ONE),
        flag("dtype", Takes.ONE),
        flag("middleware", Takes.ONE),
        flag("ignore-patterns", Takes.SEVERAL),
        flag("cudagraph-capture-sizes", Takes.SEVERAL),
        flag("enable-prefix-caching", Takes.NONE, "--no-enable-prefix-caching"),
        flag("disable-log-stats", Takes.NONE),
        Flag(
            word="--no-enable-prefix-caching",
            destination="enable_prefix_caching",
            takes=Takes.NONE,
            opposite="--enable-prefix-caching",
        ),
    )
}


def made(args: Mapping[str, Any]) -> list[Argument]:
    struct = json_format.ParseDict(dict(args), struct_pb2.Struct())
    return arguments(struct, FLAGS, RESERVED)


def words(args: Mapping[str, Any]) -> list[tuple[str | None, list[str]]]:
    return [(argument.spelling, argument.words) for argument in made(args)]


@pytest.mark.parametrize(
    ("args", "spelling", "expected"),
    [
        ({"max_model_len": 2048}, "--max-model-len", ["2048"]),
        ({"gpu-memory-utilization": 0.5}, "--gpu-memory-utilization", ["0.5"]),
        ({"enable_prefix_caching": True}, "--enable-prefix-caching", []),
        ({"enable_prefix_caching": False}, "--no-enable-prefix-caching", []),
        ({"no_enable_prefix_caching": False}, "--enable-prefix-caching", []),
        ({"disable_log_stats": True}, "--disable-log-stats", []),
        ({"disable_log_stats": False}, None, []),
        ({"chat_template": "--not-a-flag with a blank"}, "--chat-template", ["--not-a-flag with a blank"]),
        ({"hf_overrides": {"top_k": 1}}, "--hf-overrides", ['{"top_k": 1}']),
        ({"ignore_patterns": ["*", "x y"]}, "--ignore-patterns", ["*", "x y"]),
        (
            {"ignore_patterns": ["x", "--model=/other", "-q", "-"]},
            "--ignore-patterns",
            ["x", "--model=/other", "-q", "-"],
        ),
        ({"ignore_patterns": []}, "--ignore-patterns", []),
        ({"cudagraph_capture_sizes": [1, 2]}, "--cudagraph-capture-sizes", ["1", "2"]),
        ({"ignore_patterns": "x"}, "--ignore-patterns", ["x"]),
        ({"max_model_len": ["2048", "--a=b"]}, "--max-model-len", ['["2048", "--a=b"]']),
    ],
)
def test_an_argument_is_one_flag_and_its_words(args: Mapping[str, Any], spelling: str, expected: list[str]) -> None:
    assert words(args) == [(spelling, expected)]


def test_null_sets_nothing() -> None:
    assert words({"dtype": None}) == []


def test_dotted_names_are_merged_and_keep_the_spelling_of_their_keys() -> None:
    args = {"hf_overrides.rope_scaling.type": "yarn", "hf_overrides.a-b": 2, "hf_overrides": {"rope_scaling": {"f": 4}}}
    assert words(args) == [("--hf-overrides", ['{"rope_scaling": {"f": 4, "type": "yarn"}, "a-b": 2}'])]


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (1, 1),
        (1, 1.0),
        ("2k", 2000),
        ("auto", "auto"),
        ("x", ["x"]),
        ('["a", "b"]', ["a", "b"]),
        (1, [1]),
        ([1, 2], [1, 2]),
        ({"a": [1, None, True]}, {"a": [1, None, True]}),
        ({"mode": 3}, object()),
    ],
)
def test_a_value_that_vllm_reads_as_given_is_taken(given: object, parsed: object) -> None:
    Argument(name="dtype", value=given, flag=FLAGS["--dtype"]).check_taken(parsed)


@pytest.mark.parametrize(
    ("given", "parsed", "allowed"),
    [
        (83, "83", "takes text; put it in quotes"),
        (True, "true", "takes text; put it in quotes"),
        ({"a": 1}, '{"a": 1}', "takes text"),
        (["a"], '["a"]', "takes text"),
        ([5], ["5"], "takes a list of text"),
        ({"a": 1}, ['{"a": 1}'], "takes a list of text"),
        ([{"a": 1}], ['{"a": 1}'], "takes a list of text"),
        ([None], ["null"], "takes a list of text"),
        (1, True, "takes another type"),
        ({"a": 1}, {"a": "1"}, "takes another type"),
    ],
)
def test_a_value_that_vllm_reads_as_another_is_refused(given: object, parsed: object, allowed: str) -> None:
    with pytest.raises(EngineStartError, match=rf"engine argument 'dtype': got .*: {allowed}") as caught:
        Argument(name="dtype", value=given, flag=FLAGS["--dtype"]).check_taken(parsed)
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


def test_the_optimization_level_may_be_a_number_or_text() -> None:
    flag_of_level = flag("optimization-level", Takes.ONE)
    Argument(name="optimization_level", value=3, flag=flag_of_level).check_taken("3")
    with pytest.raises(EngineStartError, match="takes text"):
        Argument(name="optimization_level", value=True, flag=flag_of_level).check_taken("true")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"rope_scaling": '{"rope_type": "yarn"}'}, "rope_scaling.*vLLM has no such argument"),
        ({"max_model": 1}, "max_model.*vLLM has no such argument"),
        ({"middleware": "os.system"}, "middleware.*Broadsheet sets it itself"),
        ({"max-model-len": 1, "max_model_len": 2}, "the same argument as"),
        ({"enable_prefix_caching": True, "no_enable_prefix_caching": True}, "the same argument as"),
        ({"hf_overrides": "x", "hf_overrides.a": 1}, "hf_overrides.a.*given twice"),
        ({"hf_overrides": {"a": 2}, "hf_overrides.a": 1}, "hf_overrides.a.*given twice"),
        ({"enable_prefix_caching": []}, "enable_prefix_caching.*takes true or false"),
    ],
)
def test_what_vllm_would_not_take_in_full_is_refused_by_name(args: Mapping[str, Any], why: str) -> None:
    with pytest.raises(EngineStartError, match=why) as caught:
        words(args)
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


def test_infinity_is_refused() -> None:
    args = struct_pb2.Struct(fields={"seed": struct_pb2.Value(number_value=float("inf"))})
    with pytest.raises(EngineStartError, match="Infinity") as caught:
        arguments(args, FLAGS, RESERVED)
    assert caught.value.reason == "ENGINE_ARGS_INVALID"
