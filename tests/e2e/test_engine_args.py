"""Engine arguments as vLLM's own parser reads them. No engine is started."""

from __future__ import annotations

import argparse
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.vllm.engine import read_arguments, serve_parser
from dataplane.errors import EngineStartError
from protocol.engine_args import RESERVED
from protocol.engine_text_args import TEXT
from tests.engine_args_fuzz import RULES, Oracle, agrees, fuzz

COUNT = 3000
"""Random mappings. They take 6 s."""

CANDIDATES: tuple[Any, ...] = ("x", 3, 0.5, {"a": 1}, {})
"""One of them is a value of each kind of argument that is no switch."""

NO_FLAGS = {
    "_api_process_count",
    "_api_process_rank",
    "enable_mm_processor_stats",
    "mamba_config",
    "model_weights",
}
"""Fields of the engine's arguments that no flag sets."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    # What vLLM imports warns of its own future.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.of_vllm()


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return serve_parser()


def parsed(parser: argparse.ArgumentParser, args: dict[str, Any], uri: str = "hf://org/name") -> Any:
    made = snapshot_pb2.ModelEntry(name="models/m", served_name="public")
    spec = {"source": {"uri": uri}, "engine": {"kind": "KIND_VLLM", "args": args}}
    json_format.ParseDict(spec, made.revision.spec)
    return read_arguments(made, parser)


def test_arguments_arrive_as_they_were_given(parser: argparse.ArgumentParser) -> None:
    read = parsed(
        parser,
        {
            "max_model_len": "2k",
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "disable_log_stats": False,
            "ignore_patterns": ["a b", "*.bin", "--model=/other/weights", "--hf-token=leak"],
            "cudagraph_capture_sizes": [1, 2],
            "hf_overrides.rope_scaling": {"rope_type": "yarn"},
            "chat_template": "--{{ messages }} in one word",
            "code_revision": "0123456",
        },
    )
    assert (read.model, read.served_model_name, read.model_tag) == ("org/name", ["public"], None)
    assert (read.max_model_len, read.enforce_eager, read.enable_prefix_caching) == (2000, True, False)
    assert not read.disable_log_stats
    assert read.ignore_patterns == ["a b", "*.bin", "--model=/other/weights", "--hf-token=leak"]
    assert read.hf_token is None
    assert read.cudagraph_capture_sizes == [1, 2]
    assert read.hf_overrides == {"rope_scaling": {"rope_type": "yarn"}}
    assert read.chat_template == "--{{ messages }} in one word"
    assert read.code_revision == "0123456"
    assert read.allowed_media_domains == ["links-are-closed.invalid"]


@pytest.mark.parametrize(
    "args",
    [
        {"ignore_patterns": ["x", 5]},
        {"ignore_patterns": {"a": 1}},
        {"ignore_patterns": [{"a": 1}]},
        {"code_revision": 83},
        {"tool_call_parser": True},
        {"hf_overrides": 7},
        {"compilation_config": {"zzz": 1}},
        {"max_model_len": ["2048", "--middleware=os.system"]},
        {"rope_scaling": '{"rope_type": "yarn"}'},
        {"tool_call_parser": ["a", "b"]},
        {"middleware": "os.system"},
        {"dtype": ["auto", "x"]},
        {"seed": "seven"},
    ],
)
def test_what_vllm_does_not_take_is_refused_by_name(parser: argparse.ArgumentParser, args: dict[str, Any]) -> None:
    (name,) = args
    with pytest.raises(EngineStartError, match=f"{name}|{name.replace('_', '-')}") as caught:
        parsed(parser, args)
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


def test_a_model_may_be_called_none(parser: argparse.ArgumentParser) -> None:
    made = snapshot_pb2.ModelEntry(name="models/m", served_name="None")
    json_format.ParseDict({"source": {"uri": "hf://org/name", "revision": "None"}}, made.revision.spec)
    read = read_arguments(made, parser)
    assert (read.served_model_name, read.revision) == (["None"], "None")


def test_whatever_is_given_vllm_reads_it_so_or_it_is_refused_for_a_reason(oracle: Oracle) -> None:
    comparison = fuzz(oracle, count=COUNT, seed=20261129)
    assert comparison.wrong == []
    assert comparison.outcomes["accepted"] > COUNT // 10
    assert RULES.keys() < set(comparison.outcomes)


def test_the_arguments_of_text_are_those_of_vllm(oracle: Oracle) -> None:
    taken = set()
    for action in oracle.actions:
        try:
            read = [action.type(word) for word in ("7x", '{"a": 1}')] if callable(action.type) else [""]
        except (TypeError, ValueError, argparse.ArgumentTypeError):
            continue
        if action.nargs != 0 and all(isinstance(value, str) for value in read):
            taken.add(action.dest)
    assert taken - RESERVED.keys() - {"optimization_level"} == TEXT


def test_no_flag_of_vllm_needs_more_than_one_word_for_an_item(oracle: Oracle) -> None:
    assert {action.nargs for action in oracle.actions} <= {None, 0, "+", "?"}


@pytest.mark.parametrize("unknown", [{"zzz": 1}, {"mode": "zzz"}])
def test_a_configuration_of_vllm_refuses_what_it_does_not_know(
    oracle: Oracle, parser: argparse.ArgumentParser, unknown: dict[str, Any]
) -> None:
    names = [action.dest for action in oracle.actions if is_dataclass(action.default)]
    assert len(names) > 5
    for name in names:
        with pytest.raises(EngineStartError, match=name):
            parsed(parser, {name: unknown})


def _fitting(action: argparse.Action, value: Any) -> Any:
    """`value`, or in its place one of those that the flag has a list of."""
    if action.choices:
        value = next(choice for choice in action.choices if choice is not None)
    return [value, value] if action.nargs == "+" else value


def test_every_argument_reaches_its_field_of_the_engine(
    oracle: Oracle, parser: argparse.ArgumentParser, tmp_path: Path
) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    fields_of_the_engine = {item.name for item in fields(AsyncEngineArgs)}
    reached = set()
    for action in oracle.actions:
        if action.dest in RESERVED or action.dest not in fields_of_the_engine:
            continue
        for value in CANDIDATES if action.nargs != 0 else (True,):
            given = _fitting(action, value)
            try:
                engine_args = AsyncEngineArgs.from_cli_args(parsed(parser, {action.dest: given}, f"file://{tmp_path}"))
            except (EngineStartError, ValueError):
                continue
            read = getattr(engine_args, action.dest)
            is_read = read == given if isinstance(given, str) else agrees(given, read)
            assert is_read or (given == {} and is_dataclass(read)), (action.dest, given, read)
            reached.add(action.dest)
            break
    assert fields_of_the_engine - reached - RESERVED.keys() == NO_FLAGS
