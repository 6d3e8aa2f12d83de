"""What vLLM is started with. That it starts is tested end to end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.protobuf import json_format

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine.out_of_memory import start_failure_reason
from dataplane.engine.vllm.engine import _extend_workers, _killed, _weights_seconds, command_line
from dataplane.errors import EngineStartError


def entry(uri: str, **spec: object) -> snapshot_pb2.ModelEntry:
    made = snapshot_pb2.ModelEntry(name="models/m", served_name="public")
    json_format.ParseDict({"source": {"uri": uri}, **spec}, made.revision.spec)
    return made


def engine(args: Mapping[str, object]) -> dict[str, object]:
    return {"engine": {"kind": "KIND_VLLM", "args": dict(args)}}


def test_source_is_a_directory_of_this_node_or_a_repository(tmp_path: Path) -> None:
    directory = tmp_path / "my model"
    directory.mkdir()
    assert command_line(entry(f"file://{directory}"))[:2] == ["--model", str(directory)]
    repository = entry("hf://org/name")
    repository.revision.spec.source.revision = "abc123"
    line = command_line(repository)
    assert line[:2] == ["--model", "org/name"]
    assert line[line.index("--revision") + 1] == "abc123"


def test_an_engine_that_is_to_sleep_is_started_as_one_that_can() -> None:
    sleeps = entry("hf://org/name", scaling={"idle": "IDLE_SLEEP"})
    assert "--enable-sleep-mode" in command_line(sleeps)
    assert "--enable-sleep-mode" not in command_line(entry("hf://org/name"))


def test_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="no such directory") as caught:
        command_line(entry((tmp_path / "nowhere").as_uri()))
    assert caught.value.reason == "SOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("args", "flags"),
    [
        ({"max_model_len": 2048}, ["--max-model-len=2048"]),
        ({"gpu-memory-utilization": 0.5}, ["--gpu-memory-utilization=0.5"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"seed": None}, []),
        ({"chat_template": "--not-a-flag"}, ["--chat-template=--not-a-flag"]),
        ({"override_generation_config": {"top_k": 1}}, ['--override-generation-config={"top_k": 1}']),
        ({"allowed_origins": ["*", "x"]}, ["--allowed-origins", "*", "x"]),
    ],
)
def test_arguments_become_flags(args: Mapping[str, object], flags: list[str]) -> None:
    bare = command_line(entry("hf://org/name", **engine({})))
    assert command_line(entry("hf://org/name", **engine(args)))[len(bare) :] == flags


def test_infinity_is_no_flag() -> None:
    broken = entry("hf://org/name")
    broken.revision.spec.engine.args.update({"seed": 1})
    broken.revision.spec.engine.args.fields["seed"].number_value = 1e400
    with pytest.raises(EngineStartError, match="Infinity") as caught:
        command_line(broken)
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


def test_lora_is_on_only_when_the_model_takes_adapters() -> None:
    assert "--enable-lora" not in command_line(entry("hf://org/name"))
    line = command_line(entry("hf://org/name", lora={"maxAdapters": 3, "maxRank": 32}))
    assert line[line.index("--max-loras") + 1] == "3"
    assert line[line.index("--max-lora-rank") + 1] == "32"


def test_parallel_sizes_are_handed_on() -> None:
    line = command_line(entry("hf://org/name", resources={"tensorParallelSize": 4, "pipelineParallelSize": 2}))
    assert line[line.index("--tensor-parallel-size") + 1] == "4"
    assert line[line.index("--pipeline-parallel-size") + 1] == "2"
    assert model_pb2.Resources().tensor_parallel_size == 0


def test_time_of_reading_the_weights_is_the_slowest_workers() -> None:
    log = (
        "(EngineCore pid=7) INFO 11-26 12:00:01 [default_loader.py:502] Loading weights took 2.13 seconds\n"
        "(EngineCore pid=8) INFO 11-26 12:00:02 [default_loader.py:502] Loading weights took 3.50 seconds\n"
    )
    assert _weights_seconds(log) == 3.5
    assert _weights_seconds("INFO nothing of the kind") is None


def test_a_worker_extension_of_somebody_else_is_not_overwritten() -> None:
    with pytest.raises(EngineStartError, match="worker_extension_cls") as caught:
        _extend_workers(SimpleNamespace(worker_extension_cls="theirs.Extension"))
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


@pytest.mark.parametrize(
    ("kernel_kills", "reason", "words"),
    [(1, "OUT_OF_MEMORY", "kernel killed"), (0, "ENGINE_START_FAILED", "not known")],
)
def test_an_engine_process_that_is_killed_while_it_starts(kernel_kills: int, reason: str, words: str) -> None:
    said = "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
    message = _killed(said, kernel_kills)
    assert words in message
    assert start_failure_reason(message) == reason
    assert _killed(said.replace("-9", "1"), kernel_kills) == ""
