"""Engine arguments as words for vLLM's parser. vLLM's own parser reads them in tests/e2e."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from dataplane.engine.vllm.flags import Flag, Takes, arguments
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


def words(args: Mapping[str, Any]) -> list[str]:
    struct = json_format.ParseDict(dict(args), struct_pb2.Struct())
    return [word for argument in arguments(struct, FLAGS, RESERVED) for word in argument.words]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"max_model_len": 2048}, ["--max-model-len=2048"]),
        ({"gpu-memory-utilization": 0.5}, ["--gpu-memory-utilization=0.5"]),
        ({"enable_prefix_caching": True}, ["--enable-prefix-caching"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"no_enable_prefix_caching": False}, ["--enable-prefix-caching"]),
        ({"disable_log_stats": True}, ["--disable-log-stats"]),
        ({"dtype": None}, []),
        ({"chat_template": "--not-a-flag with a blank"}, ["--chat-template=--not-a-flag with a blank"]),
        ({"hf_overrides": {"top_k": 1}}, ['--hf-overrides={"top_k": 1}']),
        ({"ignore_patterns": ["*", "x y"]}, ["--ignore-patterns", "*", "x y"]),
        ({"cudagraph_capture_sizes": [1, 2]}, ["--cudagraph-capture-sizes", "1", "2"]),
        ({"ignore_patterns": "x"}, ["--ignore-patterns=x"]),
    ],
)
def test_arguments_become_flags(args: Mapping[str, Any], expected: list[str]) -> None:
    assert words(args) == expected


def test_false_is_no_flag_where_vllm_has_none_to_switch_off() -> None:
    assert words({"disable_log_stats": False}) == []


def test_dotted_names_are_merged_and_keep_the_spelling_of_their_keys() -> None:
    args = {"hf_overrides.rope_scaling.type": "yarn", "hf_overrides.a-b": 2, "hf_overrides": {"rope_scaling": {"f": 4}}}
    assert words(args) == ['--hf-overrides={"rope_scaling": {"f": 4, "type": "yarn"}, "a-b": 2}']


@pytest.mark.parametrize("item", ["--model=/other/weights", "-q", "-"])
def test_an_item_of_a_list_is_never_a_flag(item: str) -> None:
    with pytest.raises(EngineStartError, match=r"ignore_patterns.*must not begin with") as caught:
        words({"ignore_patterns": ["x", item]})
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


def test_a_list_for_a_flag_of_one_word_is_one_word() -> None:
    assert words({"max_model_len": ["2048", "--middleware=os.system"]}) == [
        '--max-model-len=["2048", "--middleware=os.system"]'
    ]


def test_json_that_vllm_would_use_as_text_is_refused() -> None:
    struct = json_format.ParseDict({"dtype": {"a": 1}}, struct_pb2.Struct())
    (argument,) = arguments(struct, FLAGS, RESERVED)
    argument.check_taken({"a": 1})
    with pytest.raises(EngineStartError, match=r"dtype.*takes text"):
        argument.check_taken('{"a": 1}')


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
        ({"dtype": True}, "dtype.*takes a value"),
        ({"ignore_patterns": False}, "ignore_patterns.*takes a value"),
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
