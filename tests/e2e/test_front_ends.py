"""A replica's engine with two front-end processes, on real vLLM. Without Ray, to be quick."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from google.protobuf import json_format
from prometheus_client import values
from structlog.testing import capture_logs

from broadsheet.v1 import adapter_pb2, snapshot_pb2
from dataplane.engine.adapters import AdapterCache
from dataplane.engine.app import ReplicaApp
from dataplane.engine.front_ends.front_ends import FrontEnds
from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.front_ends.process import FrontEndSettings
from dataplane.engine.http_server import serve_http
from dataplane.engine.replica_adapters import ReplicaAdapters
from dataplane.engine.vllm import engine as vllm_engine
from dataplane.engine.vllm.load_log import VLLM_LOGGER
from dataplane.errors import EngineStartError
from dataplane.openai import wire
from dataplane.openai.adapter_names import engine_adapter_name
from protocol.adapters.adapter_digest import weights_digest
from tests.e2e.real_model import CAPITAL, ENGINE_ARGS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    # What vLLM imports warns of its own future, and it leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]

SECRET = "s" * 16


@dataclass(frozen=True, slots=True)
class Replica:
    """What an engine replica is made of, beside its reports."""

    engine: vllm_engine.VllmEngine
    adapters: ReplicaAdapters
    front_ends: FrontEnds
    own_url: str
    http: aiohttp.ClientSession

    @property
    def urls(self) -> tuple[str, ...]:
        return self.own_url, *self.front_ends.urls

    def loaded(self) -> list[str]:
        """The adapters that the engine has."""
        return list(self.engine.loaded_adapters)

    def post(
        self, url: str, entry: snapshot_pb2.AdapterEntry | None = None, **fields: Any
    ) -> aiohttp.client._RequestContextManager:
        headers = {wire.SERVED_NAME_HEADER: "smollm2"}
        body: dict[str, object] = {
            "model": "smollm2",
            "messages": CAPITAL,
            "temperature": 0,
            "max_tokens": 16,
            **fields,
        }
        if entry is not None:
            headers = {wire.SERVED_NAME_HEADER: entry.served_name, wire.ADAPTER_HEADER: wire.encode_adapter(entry)}
            body["model"] = engine_adapter_name(entry)
        return self.http.post(f"{url}/v1/chat/completions", json=body, headers=headers)

    async def ask(self, url: str, entry: snapshot_pb2.AdapterEntry | None = None) -> tuple[str, str]:
        """The model that answers, and its answer."""
        async with self.post(url, entry) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer["model"], answer["choices"][0]["message"]["content"]

    async def metric(self, url: str, name: str) -> float:
        async with self.http.get(f"{url}/metrics") as response:
            found = re.findall(rf"^{name}\{{[^}}]*\}} (\S+)$", await response.text(), re.MULTILINE)
        return sum(map(float, found))


def model(source: Path) -> snapshot_pb2.ModelEntry:
    entry = snapshot_pb2.ModelEntry(name="models/smollm2", served_name="smollm2")
    spec = {
        "source": {"uri": source.as_uri()},
        "engine": {"kind": "KIND_VLLM", "args": {**ENGINE_ARGS, "api_server_count": 2}},
        "lora": {"max_adapters": 2, "max_rank": 8},
    }
    json_format.ParseDict(spec, entry.revision.spec)
    return entry


@pytest.fixture(scope="module")
def adapter(pirate: Path) -> snapshot_pb2.AdapterEntry:
    made = snapshot_pb2.AdapterEntry(name="models/smollm2/adapters/pirate", served_name="smollm2:pirate")
    made.revision.source.uri = pirate.as_uri()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        content = (pirate / name).read_bytes()
        made.revision.weights.files.append(
            adapter_pb2.AdapterFile(path=name, size_bytes=len(content), sha256=hashlib.sha256(content).digest())
        )
    made.revision.weights.digest = weights_digest(made.revision.weights.files)
    return made


def descendants() -> set[psutil.Process]:
    """The processes below this one, without that of multiprocessing itself."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("resource_tracker" in word for word in process.cmdline()):
                found.add(process)
    return found


@pytest.fixture(scope="module")
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(
    smollm2: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replica]:
    """An engine with its front ends, composed as `EngineReplica` does it."""
    before, filters = descendants(), logging.getLogger(VLLM_LOGGER).filters[:]
    monkeypatch.setenv("VLLM_LOG_STATS_INTERVAL", "1")

    async def load(name: str, path: Path) -> None:
        await engine.load_adapter(name, path)

    async def ensure(entry: snapshot_pb2.AdapterEntry) -> LoadedAdapter:
        await adapters.ensure(entry)
        return engine.adapter(engine_adapter_name(entry))

    cache = AdapterCache(tmp_path_factory.mktemp("adapters"))
    adapters = ReplicaAdapters(cache, load, clock=time.monotonic, on_tried=lambda entry, error: None)
    settings = FrontEndSettings(host="127.0.0.1", secret=SECRET)
    front_ends = FrontEnds(settings, ensure_adapter=ensure, on_change=lambda: None, liveness_timeout_s=60)
    engine = await vllm_engine.start(model(smollm2), front_ends, cores=2)
    await front_ends.ready()
    app = ReplicaApp(engine.app, secret=SECRET, ensure_adapter=adapters.ensure, is_alive=lambda: engine.is_alive)
    server, url, serving = await serve_http(app, "127.0.0.1")
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as http:
        yield Replica(engine, adapters, front_ends, url, http)
    server.should_exit = True
    await asyncio.gather(serving, front_ends.stop())
    engine.shutdown()
    await until(lambda: descendants() <= before, "the end of all processes")
    # This process is no replica: it goes on, with other tests.
    logging.getLogger(VLLM_LOGGER).filters = filters
    del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


async def until(holds: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            outcome = holds()
            if outcome if isinstance(outcome, bool) else await outcome:
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


async def test_every_front_end_answers_from_the_same_engine(replica: Replica) -> None:
    answers = [await replica.ask(url) for url in replica.urls]
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert answers[0][0] == "smollm2"
    assert "Paris" in answers[0][1]
    # Each shows what all have counted.
    counted = [await replica.metric(url, "vllm:request_success_total") for url in replica.urls]
    assert counted == [2, 2]


async def test_the_load_of_all_front_ends_is_logged(replica: Replica) -> None:
    async def say_eight_tokens(url: str) -> None:
        async with replica.post(url, max_tokens=8, ignore_eos=True) as response:
            assert response.status == 200

    def tokens_logged() -> float:
        """In all spans, which are little more than a second long."""
        return float(sum(event["generation_tokens_per_s"] for event in logs if event["event"] == "engine_load"))

    with capture_logs() as logs:
        await asyncio.gather(*map(say_eight_tokens, replica.urls))
        await until(lambda: tokens_logged() > 12, "the load of both", 10)


async def test_an_adapter_answers_at_every_front_end(replica: Replica, adapter: snapshot_pb2.AdapterEntry) -> None:
    own, further = replica.urls
    name, pirate = await replica.ask(further, adapter)
    assert name == "smollm2:pirate"
    assert "Paris" not in pirate
    assert await replica.ask(own, adapter) == (name, pirate)
    assert replica.loaded() == [engine_adapter_name(adapter)]
    assert "Paris" in (await replica.ask(further))[1]


async def test_an_adapter_that_was_unloaded_is_loaded_again(
    replica: Replica, adapter: snapshot_pb2.AdapterEntry
) -> None:
    own, further = replica.urls
    before = await replica.ask(further, adapter)
    name = engine_adapter_name(adapter)
    with replica.adapters.leaving(name):
        assert await replica.front_ends.forget_adapter(name)
        await replica.engine.unload_adapter(name)
        await replica.adapters.remove_files(replica.adapters.drop(name))
        async with replica.post(further, adapter) as refused:
            assert refused.headers[wire.ADAPTER_FAILED_HEADER] == "1"
    assert replica.loaded() == []
    assert await replica.ask(further, adapter) == before
    assert replica.loaded() == [name]
    assert "Paris" in (await replica.ask(own))[1]


async def test_a_killed_front_end_is_replaced_and_its_requests_end(
    replica: Replica, adapter: snapshot_pb2.AdapterEntry
) -> None:
    own, further = replica.urls
    async with replica.post(further, stream=True, max_tokens=900, ignore_eos=True) as stream:
        await stream.content.readline()
        os.kill(replica.front_ends.pids[0], signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
    assert "Paris" in (await replica.ask(own))[1]

    async def is_alone() -> bool:
        await replica.ask(own)
        return await replica.metric(own, "vllm:num_requests_running") == 0

    # On this processor, 900 tokens take half a minute.
    await until(is_alone, "the end of the request that nobody reads", 10)
    await until(lambda: len(replica.urls) == 2, "another front end")
    assert further not in replica.urls
    assert "Paris" in (await replica.ask(replica.urls[1]))[1]
    assert (await replica.ask(replica.urls[1], adapter))[0] == "smollm2:pirate"
    assert not replica.front_ends.failed


class Accelerator:
    def is_cpu(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("asked", "changes", "count"),
    [
        (None, {}, 4),
        (2, {}, 2),
        (None, {"hidden_size": 8192, "layers": 80}, 2),
        (None, {"is_multimodal_model": True}, 1),
        (3, {"is_multimodal_model": True}, 3),
        (None, {"enable_fault_tolerance": True}, 1),
    ],
)
async def test_the_number_follows_the_device_and_the_model(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, changes: dict[str, Any], count: int
) -> None:
    from vllm import platforms

    assert vllm_engine._front_end_count(SimpleNamespace(api_server_count=asked), config(**changes), 64) == (asked or 1)
    with monkeypatch.context() as patch:
        patch.setattr(platforms, "_current_platform", Accelerator())
        assert vllm_engine._front_end_count(SimpleNamespace(api_server_count=asked), config(**changes), 64) == count


def config(*, hidden_size: int = 4096, layers: int = 32, **changes: bool) -> SimpleNamespace:
    """What is read of vLLM's configuration; that of an 8B model on one accelerator."""
    model = SimpleNamespace(
        is_multimodal_model=changes.get("is_multimodal_model", False),
        get_hidden_size=lambda: hidden_size,
        get_total_num_hidden_layers=lambda: layers,
    )
    parallel = SimpleNamespace(world_size=1, enable_fault_tolerance=changes.get("enable_fault_tolerance", False))
    return SimpleNamespace(model_config=model, parallel_config=parallel)


async def test_a_number_that_vllm_cannot_have_is_refused_by_name() -> None:
    with pytest.raises(EngineStartError, match="'api_server_count': got 17: takes a whole number from 1 to 16"):
        vllm_engine._front_end_count(SimpleNamespace(api_server_count=17), config(), 64)
