"""The flags that vLLM is started with. That it starts is tested end to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from google.protobuf import json_format

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine.vllm.command_line import command_line
from dataplane.engine.vllm.flags import Argument, Flag, Takes
from dataplane.errors import EngineStartError


def entry(uri: str, **spec: object) -> snapshot_pb2.ModelEntry:
    made = snapshot_pb2.ModelEntry(name="models/m", served_name="public")
    json_format.ParseDict({"source": {"uri": uri}, **spec}, made.revision.spec)
    return made


def test_source_is_a_directory_of_this_node_or_a_repository(tmp_path: Path) -> None:
    directory = tmp_path / "my model"
    directory.mkdir()
    assert command_line(entry(f"file://{directory}"), ())[0] == f"--model={directory}"
    assert command_line(entry("hf://org/name"), ())[0] == "--model=org/name"


def test_a_model_that_sleeps_is_started_with_sleep_mode() -> None:
    sleeps = entry("hf://org/name", scaling={"idle": "IDLE_SLEEP"})
    assert "--enable-sleep-mode" in command_line(sleeps, ())
    assert "--enable-sleep-mode" not in command_line(entry("hf://org/name"), ())


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="no such directory") as caught:
        command_line(entry((tmp_path / "nowhere").as_uri()), ())
    assert caught.value.reason == "SOURCE_NOT_FOUND"


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_in_place_of_a_file_is_refused_before_vllm_waits_for_it(tmp_path: Path, linked: bool) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "model").mkdir()
    os.mkfifo((tmp_path / "original" if linked else tmp_path / "model") / "config.json")
    if linked:
        (tmp_path / "model" / "config.json").symlink_to(tmp_path / "original" / "config.json")
    (tmp_path / "model" / "dangling").symlink_to("nowhere")
    with pytest.raises(EngineStartError, match=r"config\.json is a pipe, a socket or a device") as caught:
        command_line(entry((tmp_path / "model").as_uri()), ())
    assert caught.value.reason == "ENGINE_START_FAILED"


def test_a_model_in_a_hub_cache_is_a_directory_of_links(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "c0ffee"
    (tmp_path / "models--org--name" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--name" / "blobs" / "hash").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/hash")
    assert command_line(entry(snapshot.as_uri()), ())[0] == f"--model={snapshot}"


def test_pictures_and_sounds_by_link_are_closed_unless_domains_are_given() -> None:
    assert "--allowed-media-domains=links-are-closed.invalid" in command_line(entry("hf://org/name"), ())
    flag = Flag(word="--allowed-media-domains", destination="allowed_media_domains", takes=Takes.SEVERAL)
    given = Argument(name="allowed_media_domains", value=["example.com"], flag=flag)
    assert not any("media" in word for word in command_line(entry("hf://org/name"), (given,)))


def test_lora_is_enabled_only_for_models_with_adapters() -> None:
    assert "--enable-lora" not in command_line(entry("hf://org/name"), ())
    line = command_line(entry("hf://org/name", lora={"maxAdapters": 3, "maxRank": 32}), ())
    assert {"--max-loras=3", "--max-lora-rank=32"} < set(line)


def test_parallel_sizes_become_flags() -> None:
    line = command_line(entry("hf://org/name", resources={"tensorParallelSize": 4, "pipelineParallelSize": 2}), ())
    assert {"--tensor-parallel-size=4", "--pipeline-parallel-size=2"} < set(line)
    assert model_pb2.Resources().tensor_parallel_size == 0
