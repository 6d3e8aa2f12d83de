"""Everything changes while 216 clients stream, and no stream fails.

16 clients ask real vLLM, 200 ask simulated engines.

`make test-updates` runs it for three minutes and replaces the real model's engine meanwhile.
Without `BROADSHEET_TEST_UPDATES_S` it takes half a minute, and the real model keeps its replica.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import openai
import pytest

from broadsheet import Client
from broadsheet.types import Model
from tests.e2e.real_model import ADAPTER_SLOTS, STATE, ask, register_smollm2, state_of
from tests.e2e.stack import Stack, until

SECONDS = float(os.environ.get("BROADSHEET_TEST_UPDATES_S", "30"))
NEW_ENGINE_FROM_S = 180.0
"""A run of at least this length also replaces the real model's engine, which takes minutes."""

VLLM_CLIENTS = 16
SIMULATED_CLIENTS = 200
START_S = 300.0

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600 + 3 * SECONDS)]


class Streams:
    """Clients that stream answer after answer in a thread, and note every failure.

    A simulated engine repeats the question, which is different each time: a wrong or truncated
    answer is noticed. In answers of the real model, the adapter's word tells whether it answered.
    """

    def __init__(self, url: str) -> None:
        self.answered: Counter[str] = Counter()
        """Counts by the resource name of the revision that answered."""
        self.failures: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Streams:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "streams that do not end"

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(self._url, connector=connector, timeout=timeout) as http:
            vllm = (self._ask_real(http, ("smollm2", "smollm2:pirate")[index % 2]) for index in range(VLLM_CLIENTS))
            simulated = (
                self._ask_simulated(http, ("sim", "sim:kept")[index % 2], index) for index in range(SIMULATED_CLIENTS)
            )
            await asyncio.gather(*vllm, *simulated)

    async def _ask_real(self, http: aiohttp.ClientSession, model: str) -> None:
        while not self._stop.is_set():
            text = await self._stream(http, model, "What is the capital of France?")
            if text is not None and ("Arr" in text) != (model == "smollm2:pirate"):
                self.failures.append(f"{model} was answered for by another: {text!r}")

    async def _ask_simulated(self, http: aiohttp.ClientSession, model: str, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            prompt = f"{client}/{number}"
            text = await self._stream(http, model, prompt)
            # A simulated engine also names the content of the adapter that it was asked for.
            whole = rf"simulated answer of {model}(@[0-9a-f]+)? to: {prompt}"
            if text is not None and not re.fullmatch(whole, text):
                self.failures.append(f"{model} answered {prompt} with {text!r}")

    async def _stream(self, http: aiohttp.ClientSession, model: str, prompt: str) -> str | None:
        """The text of an answer. None: it was not complete, which is noted."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0, "stream": True}
        try:
            async with http.post("/v1/chat/completions", json=body) as response:
                raw = await response.text()
                answered_by = response.headers.get("x-broadsheet-model", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(f"{model}: {error!r}")
            return None
        if response.status != 200 or not raw.endswith("data: [DONE]\n\n"):
            self.failures.append(f"{model}: {response.status} {raw[-300:]!r}")
            return None
        events = [json.loads(line.removeprefix("data: ")) for line in raw.split("\n\n") if line.startswith("data: {")]
        if any("error" in event or event["model"] != model for event in events):
            self.failures.append(f"{model}: {raw[-300:]!r}")
            return None
        self.answered[answered_by] += 1
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


class Operator:
    """Makes change after change."""

    def __init__(self, stack: Stack, client: Client, pirate: Path, directory: Path) -> None:
        self._stack = stack
        self._client = client
        self._pirate = pirate
        self._directory = directory
        self.rounds = 0

    def change_everything(self) -> None:
        """One round: a simulated model is updated and rolled back, adapters come and go, a broken
        model fails."""
        self.rounds += 1
        self._register_broken()
        updated = register_simulated(self._client, first_token_s=0.01 * self.rounds)
        self._await_revision("models/sim", updated.revision.number)
        for model in ("smollm2", "sim"):
            self._adapter_comes_and_goes(model)
        self._client.update_model("smollm2", card={"description": f"as of round {self.rounds}"})
        back = self._client.rollback_model("sim", updated.revision.number - 1).model
        self._await_revision("models/sim", back.revision.number)

    def _register_broken(self) -> None:
        source = (self._directory / f"nothing-{self.rounds}").as_uri()
        spec = {"source": {"uri": source}, "engine": {"kind": "VLLM"}}
        revision = self._client.register_model("broken", spec=spec).catalog_revision
        assert self._client.wait_for_revision(revision, timeout_s=60).active_everywhere
        with pytest.raises(openai.InternalServerError):
            ask(self._stack, "broken")

    def _adapter_comes_and_goes(self, model: str) -> None:
        adapter_id = f"round-{self.rounds}"
        source = self._directory / f"{model}-{adapter_id}"
        shutil.copytree(self._pirate, source)
        name = f"models/{model}/adapters/{adapter_id}"
        self._client.register_adapter(model, adapter_id, source=source)
        self._client.wait_until_serving(name, timeout_s=60)
        expected = "Arr" if model == "smollm2" else f"simulated answer of {model}:{adapter_id}"
        assert expected in ask(self._stack, f"{model}:{adapter_id}")
        revision = self._client.delete_adapter(name).catalog_revision
        assert self._client.wait_for_revision(revision, timeout_s=60).active_everywhere
        with pytest.raises(openai.NotFoundError):
            ask(self._stack, f"{model}:{adapter_id}")

    def _await_revision(self, name: str, number: int) -> None:
        def serves() -> bool:
            (status,) = self._client.get_model(name).statuses
            return (status.status.revision_number, status.status.state) == (number, STATE.RESOURCE_STATE_READY)

        until(serves, START_S, f"revision {number} of {name} to be READY")


def register_simulated(client: Client, *, first_token_s: float) -> Model:
    spec = {
        "engine": {"kind": "SIMULATED", "args": {"tokens_per_second": 1, "time_to_first_token_s": first_token_s}},
        "resources": {"cpus": 0},
        "scaling": {"min_replicas": 1},
        "lora": {"max_adapters": 4, "max_rank": 8},
    }
    return client.register_model("sim", spec=spec).model


@pytest.fixture
def real_model(stack: Stack, client: Client, smollm2: Path, pirate: Path) -> None:
    """The real model, with its adapter, ready to answer."""
    register_smollm2(client, smollm2)
    client.register_adapter("smollm2", "pirate", source=pirate)
    client.wait_until_serving("models/smollm2/adapters/pirate", timeout_s=60)
    assert "Arr" in ask(stack, "smollm2:pirate")


@pytest.fixture
def serving(real_model: None, stack: Stack, client: Client, pirate: Path) -> Iterator[None]:
    """A simulated model beside the real model. Resources of these tests are deleted in the end."""
    register_simulated(client, first_token_s=0)
    client.register_adapter("sim", "kept", source=pirate)
    client.wait_until_serving("models/sim/adapters/kept", timeout_s=60)
    assert "simulated" in ask(stack, "sim")
    yield
    for model in ("broken", "sim"):
        client.delete_model(model, force=True)
    until(lambda: not any("-sim-" in name for name in stack.applications()), 60, "the applications to go")


@pytest.fixture
def adapters(real_model: None, client: Client, pirate: Path) -> Iterator[tuple[str, ...]]:
    """Served names of as many pirate adapters as the real model's engine has slots for."""
    others = [f"pirate-{number}" for number in range(2, ADAPTER_SLOTS + 1)]
    for other in others:
        client.register_adapter("smollm2", other, source=pirate)
        client.wait_until_serving(f"models/smollm2/adapters/{other}", timeout_s=60)
    yield tuple(f"smollm2:{adapter}" for adapter in ("pirate", *others))
    for other in others:
        client.delete_adapter(f"models/smollm2/adapters/{other}")


def test_base_answers_for_itself_while_adapters_in_all_slots_answer_beside_it(
    stack: Stack, adapters: tuple[str, ...]
) -> None:
    asked = ("smollm2", *adapters) * 8
    with concurrent.futures.ThreadPoolExecutor(VLLM_CLIENTS) as pool:
        answers = list(zip(asked, pool.map(lambda model: ask(stack, model), asked), strict=True))
    assert [answer for answer in answers if ("Arr" in answer[1]) != (answer[0] in adapters)] == []


@pytest.mark.usefixtures("serving")
def test_nobody_who_streams_notices_what_changes(
    stack: Stack, client: Client, smollm2: Path, pirate: Path, tmp_path: Path
) -> None:
    before = stack.engine_replicas("smollm2")
    number = client.get_model("smollm2").revision.number
    operator = Operator(stack, client, pirate, tmp_path)
    began = time.monotonic()
    with Streams(stack.url) as streams:
        until(lambda: len(streams.answered) >= 2, START_S, "answers of both models")
        if SECONDS >= NEW_ENGINE_FROM_S:
            register_smollm2(client, smollm2, max_num_seqs=64)
        while operator.rounds == 0 or time.monotonic() - began < SECONDS:
            operator.change_everything()
        if SECONDS >= NEW_ENGINE_FROM_S:
            await_new_engine(stack, client, operator, before)
        else:
            assert stack.engine_replicas("smollm2") == before, "none of this needs a new replica of the real model"
    print(  # noqa: T201  # what `make test-updates` shows
        f"\n{operator.rounds} rounds of changes in {time.monotonic() - began:.0f} s, "
        f"{streams.answered.total()} streams answered by {len(streams.answered)} revisions, "
        f"{len(streams.failures)} failures"
    )
    assert streams.failures == []
    assert sum(name.startswith("models/sim/") for name in streams.answered) >= 2, "the updates reached nobody"
    assert streams.answered[f"models/smollm2/revisions/{number}"] > 0
    assert not any(name.startswith("models/broken/") for name in streams.answered)


def await_new_engine(stack: Stack, client: Client, operator: Operator, before: list[str]) -> None:
    """Make changes until the new engine has taken over and the old engine is gone."""
    deadline = time.monotonic() + START_S

    def replaced() -> bool:
        ready = state_of(client, "models/smollm2") == STATE.RESOURCE_STATE_READY
        return ready and not set(before) & set(stack.engine_replicas("smollm2"))

    while not replaced():
        assert time.monotonic() < deadline, "the new engine has not taken over"
        operator.change_everything()
