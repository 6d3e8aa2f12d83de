"""The engine's configuration beside that of `vllm serve`. No engine is started."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fastapi
import pytest
from google.protobuf import json_format
from structlog.testing import capture_logs

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.front_ends.front_ends import FrontEnds
from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.front_ends.process import FrontEndSettings
from dataplane.engine.vllm import engine, serve_command
from dataplane.engine.vllm.load_log import VLLM_LOGGER, LoadEvents
from dataplane.errors import EngineStartError

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    # What vLLM imports warns of its own future.
    pytest.mark.filterwarnings("ignore"),
]

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 256,
    "max_position_embeddings": 16384,
    "torch_dtype": "bfloat16",
}

DIFFERENCES = {
    "vllm_config.instance_id": "random in each configuration",
    "vllm_config.model_config.allowed_media_domains": "callers cannot make an engine fetch links",
    "vllm_config.parallel_config.worker_extension_cls": "a model with adapters has Broadsheet's own",
    "client_addresses": "none, or no keys: the client starts its engine itself",
}
"""Fields in which the two may differ, and why."""

GIVEN = [
    ({}, {}, []),
    ({"max_model_len": 512, "max_num_seqs": 7}, {}, ["--max-model-len=512", "--max-num-seqs=7"]),
    (
        {"enable_log_requests": True, "aggregate_engine_logging": True, "disable_log_stats": True},
        {},
        ["--enable-log-requests", "--aggregate-engine-logging", "--disable-log-stats"],
    ),
    ({"enable_flash_late_interaction": False}, {}, ["--no-enable-flash-late-interaction"]),
    (
        {"enforce_eager": True, "performance_mode": "throughput"},
        {"lora": {"max_adapters": 2, "max_rank": 8}},
        ["--enforce-eager", "--performance-mode=throughput", "--enable-lora", "--max-loras=2", "--max-lora-rank=8"],
    ),
    ({}, {"resources": {"tensor_parallel_size": 2}}, ["--tensor-parallel-size=2"]),
]
"""Engine arguments, other fields of the spec, and what a user of `vllm serve` would write."""


class Started(Exception):
    """vLLM is asked to start an engine with these arguments."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    def start(_: object, **arguments: Any) -> None:
        raise Started(**arguments)

    monkeypatch.setattr(AsyncLLM, "__init__", start)
    monkeypatch.setattr(AsyncLLM, "__del__", lambda _: None)
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as Broadsheet would set it


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    return tmp_path


def on_h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let vLLM choose its batches as on an H200. All else stays as it is on the CPU."""
    from vllm.engine import arg_utils

    here = arg_utils.current_platform
    there = SimpleNamespace(
        is_cpu=lambda: False,
        is_tpu=lambda: False,
        get_device_total_memory=lambda: 141 << 30,
        get_device_name=lambda: "NVIDIA H200",
    )
    choose = arg_utils.EngineArgs.get_batch_defaults

    def get_batch_defaults(world_size: int) -> Any:
        arg_utils.current_platform = there
        try:
            return choose(world_size)
        finally:
            arg_utils.current_platform = here

    monkeypatch.setattr(arg_utils.EngineArgs, "get_batch_defaults", staticmethod(get_batch_defaults))


def no_front_ends() -> FrontEnds:
    """For an engine in this process alone."""

    async def nothing_to_load(_: object) -> LoadedAdapter:
        raise AssertionError

    settings = FrontEndSettings(host="127.0.0.1", secret="")
    return FrontEnds(settings, ensure_adapter=nothing_to_load, on_change=lambda: None, liveness_timeout_s=1)


def ours(model: Path, args: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """What Broadsheet would start an engine with."""
    entry = snapshot_pb2.ModelEntry(name="models/m", served_name="m")
    whole = {"source": {"uri": model.as_uri()}, "engine": {"kind": "KIND_VLLM", "args": args}, **spec}
    json_format.ParseDict(whole, entry.revision.spec)
    with pytest.raises(Started) as caught:
        asyncio.run(engine._start(entry, no_front_ends(), cores=1))
    return caught.value.arguments


def theirs(model: Path, flags: list[str]) -> dict[str, Any]:
    """What `vllm serve` would start an engine with."""
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args([f"--model={model}", "--served-model-name=m", *flags])

    async def start() -> None:
        async with build_async_engine_client(parsed):
            pass

    with pytest.raises(Started) as caught:
        asyncio.run(start())
    return caught.value.arguments


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of configurations within configurations, by their paths."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "to_dict"):  # the model's own configuration, of transformers
        value = value.to_dict()
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from flat(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


@pytest.mark.parametrize("device", ["cpu", "h200"])
@pytest.mark.parametrize(("args", "spec", "flags"), GIVEN)
def test_an_engine_is_configured_as_by_vllm_serve(
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    device: str,
    args: dict[str, Any],
    spec: dict[str, Any],
    flags: list[str],
) -> None:
    if device == "h200":
        on_h200(monkeypatch)
    mine, plain = dict(flat(ours(model, args, spec))), dict(flat(theirs(model, flags)))
    assert len(plain) > 400
    differing = {path for path in mine.keys() | plain.keys() if mine.get(path) != plain.get(path)}
    assert differing <= DIFFERENCES.keys()


def test_an_engine_on_an_h200_has_the_batches_of_a_server(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    on_h200(monkeypatch)
    scheduler = ours(model, {}, {})["vllm_config"].scheduler_config
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (1024, 8192)


def test_parsers_are_checked_before_the_engine_starts(model: Path) -> None:
    entry = snapshot_pb2.ModelEntry(name="models/m", served_name="m")
    args = {"tool_call_parser": "nobody's", "enable_auto_tool_choice": True}
    spec = {"source": {"uri": model.as_uri()}, "engine": {"kind": "KIND_VLLM", "args": args}}
    json_format.ParseDict(spec, entry.revision.spec)
    with pytest.raises(EngineStartError, match="invalid tool call parser: nobody's") as caught:
        asyncio.run(engine._start(entry, no_front_ends(), cores=1))
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


def test_a_parser_of_a_plugin_is_known_to_the_engine(model: Path) -> None:
    plugin = model / "shouting_parser.py"
    plugin.write_text(
        "from vllm.tool_parsers import ToolParser, ToolParserManager\n"
        "@ToolParserManager.register_module('shouting')\n"
        "class Shouting(ToolParser): ...\n"
    )
    args = {"tool_parser_plugin": str(plugin), "tool_call_parser": "shouting", "enable_auto_tool_choice": True}
    assert ours(model, args, {})


async def test_the_lifespan_of_vllms_app_logs_the_load_until_the_engine_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.entrypoints.launchers.utils.server_utils import lifespan

    logged, enough = 0, asyncio.Event()

    async def do_log_stats() -> None:
        nonlocal logged
        logged += 1
        if logged == 2:
            enough.set()

    monkeypatch.setenv("VLLM_LOG_STATS_INTERVAL", "0.001")
    app = fastapi.FastAPI(lifespan=lifespan)
    app.state.log_stats = True
    app.state.engine_client = SimpleNamespace(do_log_stats=do_log_stats)
    frozen = gc.get_freeze_count()
    living = await serve_command.begin_lifespan(app)
    try:
        assert gc.get_freeze_count() > frozen
        await asyncio.wait_for(enough.wait(), 10)
    finally:
        gc.unfreeze()
    living.cancel()
    await asyncio.wait((living,))
    seen = logged
    await asyncio.sleep(0.01)
    assert logged == seen


def test_vllms_line_about_its_load_becomes_an_event(model: Path) -> None:
    from vllm.v1.metrics.loggers import LoggingStatLogger
    from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats

    writer = LoggingStatLogger(ours(model, {}, {})["vllm_config"])
    hits = PrefixCacheStats(requests=1, queries=8, hits=2)
    writer.record(
        SchedulerStats(num_running_reqs=3, num_waiting_reqs=1, kv_cache_usage=0.25, prefix_cache_stats=hits), None
    )
    writer.num_generation_tokens, writer.last_log_time = 5000, writer.last_log_time - 10
    logger, events = logging.getLogger(VLLM_LOGGER), LoadEvents("models/m")
    passed: list[str] = []
    reader = logging.Handler()
    reader.emit = lambda record: passed.append(record.getMessage())  # type: ignore[method-assign]
    logger.addFilter(events)
    logger.addHandler(reader)
    try:
        with capture_logs() as seen:
            writer.log()
    finally:
        logger.removeFilter(events)
        logger.removeHandler(reader)
    assert passed == []
    (event,) = seen
    rate = event.pop("generation_tokens_per_s")
    assert 450 < rate <= 500
    assert event == {
        "event": "engine_load",
        "log_level": "info",
        "model": "models/m",
        "engine": 0,
        "prompt_tokens_per_s": 0.0,
        "running_requests": 3,
        "waiting_requests": 1,
        "kv_cache_usage_percent": 25.0,
        "prefix_cache_hit_rate_percent": 25.0,
    }
