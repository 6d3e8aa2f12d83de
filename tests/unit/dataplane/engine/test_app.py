"""The app in front of an engine: who may call, and what the engine learns of a call."""

from __future__ import annotations

import asyncio
import base64

import httpx
import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.app import CURRENT_CALL, Call, ReplicaApp
from dataplane.errors import AdapterError
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.asgi import Receive, Scope, Send, send_whole
from dataplane.openai.wire import ADAPTER_FAILED_HEADER, ENGINE_DEAD_STATUS, ENGINE_HAD_REQUEST_HEADER
from tests import views

SECRET = "s3cret"
ADAPTER = views.adapter("m", "a")
ADAPTER_HEADERS = {
    "authorization": f"Bearer {SECRET}",
    "x-broadsheet-served-name": ADAPTER.served_name,
    "x-broadsheet-adapter": base64.b64encode(ADAPTER.SerializeToString()).decode(),
}


class Engine:
    """An engine's app that records its calls."""

    def __init__(self) -> None:
        self.calls: list[Call | None] = []
        self.asked = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()
        self.alive = True
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append(CURRENT_CALL.get())
        self.asked.set()
        if self.headers:
            await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
            await self.hold.wait()
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.hold.wait()
        await send_whole(send, self.status, [], b"answer")


class Adapters:
    def __init__(self) -> None:
        self.fails: AdapterError | None = None
        self.asked: list[str] = []

    async def ensure(self, entry: snapshot_pb2.AdapterEntry) -> None:
        self.asked.append(entry.name)
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def adapters() -> Adapters:
    return Adapters()


@pytest.fixture
def app(engine: Engine, adapters: Adapters) -> ReplicaApp:
    return ReplicaApp(engine, secret=SECRET, ensure_adapter=adapters.ensure, is_alive=lambda: engine.alive)


def client(app: ReplicaApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine")


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", SECRET, f"bearer {SECRET}"])
async def test_without_the_secret_nothing_reaches_the_engine(
    app: ReplicaApp, engine: Engine, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    async with client(app) as http:
        answer = await http.post("/v1/completions", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "UNAUTHENTICATED"
    assert engine.calls == []


async def test_engine_learns_the_served_name(app: ReplicaApp, engine: Engine) -> None:
    headers = {"authorization": f"Bearer {SECRET}", "x-broadsheet-served-name": "public/name"}
    async with client(app) as http:
        answer = await http.post("/v1/completions", headers=headers)
    assert answer.text == "answer"
    assert engine.calls == [Call("public/name", None)]
    assert CURRENT_CALL.get() is None


async def test_adapter_is_ensured_before_the_engine_is_asked(
    app: ReplicaApp, engine: Engine, adapters: Adapters
) -> None:
    async with client(app) as http:
        await http.post("/v1/completions", headers=ADAPTER_HEADERS)
    assert adapters.asked == [ADAPTER.name]
    assert engine.calls == [Call(ADAPTER.served_name, engine_adapter_name(ADAPTER))]


async def test_an_adapter_that_cannot_be_loaded_is_a_503_with_the_reason_and_without_file_names(
    app: ReplicaApp, engine: Engine, adapters: Adapters
) -> None:
    adapters.fails = AdapterError("/secret/path: no such file", reason="ADAPTER_SOURCE_NOT_FOUND", retry_after_s=3.2)
    async with client(app) as http:
        answer = await http.post("/v1/completions", headers=ADAPTER_HEADERS)
        assert (answer.status_code, answer.headers["retry-after"], answer.headers[ADAPTER_FAILED_HEADER]) == (
            503,
            "4",
            "1",
        )
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "adapter_failed")
        assert (
            error["message"] == "The adapter `m:a` could not be loaded: ADAPTER_SOURCE_NOT_FOUND: <path>: no such file"
        )
        assert engine.calls == []
        base = await http.post("/v1/completions", headers={"authorization": f"Bearer {SECRET}"})
        assert base.status_code == 200
        adapters.fails = None
        assert (await http.post("/v1/completions", headers=ADAPTER_HEADERS)).status_code == 200


async def test_adapter_header_that_is_no_entry_is_refused(app: ReplicaApp, engine: Engine) -> None:
    async with client(app) as http:
        for broken in ("%%%", base64.b64encode(b"\xff\xff\xff").decode()):
            answer = await http.post("/", headers={**ADAPTER_HEADERS, "x-broadsheet-adapter": broken})
            assert answer.status_code == 400
    assert engine.calls == []


async def test_requests_are_counted_while_they_run(app: ReplicaApp, engine: Engine) -> None:
    engine.hold.clear()
    async with client(app) as http, asyncio.TaskGroup() as group:
        group.create_task(http.post("/", headers=ADAPTER_HEADERS))
        await engine.asked.wait()
        assert app.in_flight == 1
        assert app.adapters_in_flight == {engine_adapter_name(ADAPTER): 1}
        engine.hold.set()
    assert app.in_flight == 0
    assert app.adapters_in_flight == {}


async def test_a_dead_engine_gets_no_request_and_is_answered_for(engine: Engine, app: ReplicaApp) -> None:
    engine.alive = False
    async with client(app) as http:
        answer = await http.post("/v1/completions", headers={"authorization": f"Bearer {SECRET}"})
    assert answer.status_code == ENGINE_DEAD_STATUS
    assert ENGINE_HAD_REQUEST_HEADER not in answer.headers
    assert engine.calls == []


async def test_an_engine_that_dies_with_a_request_is_marked_as_having_had_it(engine: Engine, app: ReplicaApp) -> None:
    engine.hold.clear()
    engine.status = 500
    async with client(app) as http:
        asking = asyncio.create_task(http.post("/v1/completions", headers={"authorization": f"Bearer {SECRET}"}))
        await engine.asked.wait()
        engine.alive = False
        engine.hold.set()
        answer = await asking
    assert (answer.status_code, answer.content) == (ENGINE_DEAD_STATUS, b"")
    assert answer.headers[ENGINE_HAD_REQUEST_HEADER] == "1"


@pytest.mark.parametrize("alive", [True, False])
async def test_a_stream_with_nothing_but_the_engines_death_has_not_begun(
    engine: Engine, app: ReplicaApp, alive: bool
) -> None:
    engine.hold.clear()
    engine.headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    async with client(app) as http:
        asking = asyncio.create_task(http.post("/v1/completions", headers={"authorization": f"Bearer {SECRET}"}))
        await engine.asked.wait()
        engine.alive = alive
        engine.hold.set()
        answer = await asking
    if alive:
        assert (answer.status_code, answer.content) == (200, b"data: {}\n\n")
    else:
        assert (answer.status_code, answer.content) == (ENGINE_DEAD_STATUS, b"")
        assert answer.headers[ENGINE_HAD_REQUEST_HEADER] == "1"


async def test_an_error_of_a_live_engine_is_passed_on(engine: Engine, app: ReplicaApp) -> None:
    engine.status = 500
    async with client(app) as http:
        answer = await http.post("/v1/completions", headers={"authorization": f"Bearer {SECRET}"})
    assert (answer.status_code, answer.content) == (500, b"answer")
