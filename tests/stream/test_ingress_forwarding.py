"""What an engine receives, and what the caller receives of its answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from dataplane.openai.routes import INFERENCE_ROUTES
from tests import views
from tests.stream.ingress_world import SECRET, Recorder, World, ready, until, unused_url
from tests.stream.raw_server import RawServer

CHAT = "/v1/chat/completions"
CATALOG = views.snapshot(views.model("m"), views.adapter("m", "a", card_text="# Ahoy\n" * 1000))
ENGINE_NAME = f"m:a@{'ab' * 16}"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        yield world


@pytest.fixture
async def recorder(world: World) -> Recorder:
    recorder = Recorder()
    world.show(CATALOG, m=ready(await world.serve(recorder)))
    return recorder


async def test_body_path_and_query_reach_the_engine_unchanged(world: World, recorder: Recorder) -> None:
    raw = b'{ "model" :"m",\n"prompt":"\\u00e9\xc3\xa9","x":1.50 , "prompt":2}'
    answer = await world.post("/v1/completions?a=%2F&b=x%20y", raw=raw)
    assert answer.body == b'{"ok":true}'
    [request] = recorder.requests
    assert (request.method, request.path, request.query) == ("POST", "/v1/completions", b"a=%2F&b=x%20y")
    assert request.body == raw


async def test_for_an_adapter_only_the_model_changes(world: World, recorder: Recorder) -> None:
    raw = b'{"prompt":"\\u00e9\xc3\xa9","model":"m:a","x":1.50,"y":{"a": [1 , 2]}}'
    await world.post("/v1/completions", raw=raw)
    [request] = recorder.requests
    assert request.body == raw.replace(b'"m:a"', f'"{ENGINE_NAME}"'.encode())
    assert request.header(b"content-length") == str(len(request.body)).encode()
    entry = snapshot_pb2.AdapterEntry.FromString(base64.b64decode(request.header(b"x-broadsheet-adapter") or b""))
    assert entry.revision.weights.digest == b"\xab" * 32
    assert (entry.name, entry.served_name) == ("models/m/adapters/a", "m:a")
    assert not entry.revision.HasField("card")


async def test_an_audio_form_reaches_the_engine_with_the_adapters_name(world: World, recorder: Recorder) -> None:
    for name in ("m", "m:a"):
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("file", bytes(range(256)) * 1000, filename="a.wav", content_type="audio/wav")
        form.add_field("model", name)
        async with world.http.post("/v1/audio/transcriptions", data=form) as response:
            assert response.status == 200
    base, adapted = recorder.requests
    assert b'name="model"' in base.body
    assert ENGINE_NAME.encode() not in base.body
    assert ENGINE_NAME.encode() in adapted.body
    assert bytes(range(256)) * 1000 in adapted.body
    assert (adapted.header(b"content-type") or b"").startswith(b"multipart/form-data; boundary=")


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
async def test_a_form_reaches_the_engine_byte_for_byte(world: World, recorder: Recorder, path: str) -> None:
    # The model comes after a file of megabytes that contains every byte, and a fake boundary.
    audio = bytes(range(256)) * 12_000 + b"\r\n--edge-\r\n\r\nmodel\r\n--edg"
    raw = (
        b'--edge\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
        + audio
        + b'\r\n--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
        + b'--edge\r\ncontent-disposition: form-data; name="timestamp_granularities[]"\r\n\r\nword\r\n--edge--\r\n'
    )
    content_type = "multipart/form-data; boundary=edge"
    assert (await world.post(path, raw=raw, headers={"content-type": content_type})).status == 200
    adapted = raw.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nm:a\r\n")
    assert (await world.post(path, raw=adapted, headers={"content-type": content_type})).status == 200
    assert [request.path for request in recorder.requests] == [path] * 2
    assert [request.header(b"content-type") for request in recorder.requests] == [content_type.encode()] * 2
    assert recorder.requests[0].body == raw
    assert recorder.requests[1].body == adapted.replace(b"\r\n\r\nm:a\r\n", f"\r\n\r\n{ENGINE_NAME}\r\n".encode())


@pytest.mark.parametrize("name", ["m", "m:a"])
async def test_multimodal_content_reaches_the_engine_byte_for_byte(world: World, recorder: Recorder, name: str) -> None:
    image = base64.b64encode(bytes(range(256)) * 8000)
    raw = (
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"what is this? \xf0\x9f\x90\xa6"},'
        b'{"type":"image_url","image_url":{"url":"data:image/png;base64,' + image + b'","detail":"low"}},'
        b'{"type":"input_audio","input_audio":{"data":"' + image[:1000] + b'" , "format":"wav"}}]}],"model":"NAME"}'
    )
    assert (await world.post(CHAT, raw=raw.replace(b"NAME", name.encode()))).status == 200
    [request] = recorder.requests
    assert request.body == raw.replace(b"NAME", b"m" if name == "m" else ENGINE_NAME.encode())


async def test_headers_to_the_engine(world: World, recorder: Recorder) -> None:
    await world.post(
        CHAT,
        {"model": "m"},
        headers={
            "authorization": "Bearer the caller's",
            "x-api-key": "the caller's",
            "cookie": "session=1",
            "x-broadsheet-adapter": "forged",
            "x-broadsheet-served-name": "forged",
            "connection": "x-hop, keep-alive",
            "x-hop": "1",
            "te": "trailers",
            "traceparent": "00-abc-def-01",
            "accept-encoding": "gzip",
            "x-request-id": "mine-1",
        },
    )
    [request] = recorder.requests
    assert request.header(b"authorization") == f"Bearer {SECRET}".encode()
    assert request.header(b"x-broadsheet-served-name") == b"m"
    assert request.header(b"x-request-id") == b"mine-1"
    assert request.header(b"traceparent") == b"00-abc-def-01"
    assert request.header(b"accept-encoding") == b"gzip"
    assert request.header(b"content-type") == b"application/json"
    names = [name for name, _ in request.headers]
    assert len(names) == len(set(names))
    for gone in (b"cookie", b"x-api-key", b"x-broadsheet-adapter", b"x-hop", b"te"):
        assert gone not in names


async def test_headers_from_the_engine(world: World) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            JSON,
            (b"x-engine", b"yes"),
            (b"content-encoding", b"gzip"),
            (b"set-cookie", b"a=b"),
            (b"x-request-id", b"the engine's"),
            (b"x-broadsheet-model", b"the engine's"),
            (b"server", b"engine"),
        ]
        await send_whole(send, 418, headers, b"not gzip at all")

    world.show(CATALOG, m=ready(await world.serve(Recorder(answer)), number=5))
    async with world.http.post(CHAT, json={"model": "m"}, headers={"x-request-id": "mine"}) as response:
        assert response.status == 418
        assert await response.read() == b"not gzip at all"
        headers = response.headers
    assert headers.getall("x-request-id") == ["mine"]
    assert headers.getall("x-broadsheet-model") == ["models/m/revisions/5"]
    assert headers["content-encoding"] == "gzip"
    assert headers["x-engine"] == "yes"
    assert headers["content-length"] == "15"
    assert len(headers.getall("date")) == 1
    assert "set-cookie" not in headers
    assert "server" not in headers


@pytest.mark.parametrize("asked", [None, "", "with space", "x" * 129, "caf\u00e9"])
async def test_an_invalid_request_id_is_replaced(world: World, recorder: Recorder, asked: str | None) -> None:
    answer = await world.post(CHAT, {"model": "m"}, headers={} if asked is None else {"x-request-id": asked})
    made = answer.headers["x-request-id"]
    assert len(made) == 36
    assert made != asked
    assert recorder.requests[0].header(b"x-request-id") == made.encode()


@pytest.mark.parametrize("path", [path for path, route in INFERENCE_ROUTES.items() if not route.form])
async def test_every_inference_route_is_forwarded(world: World, recorder: Recorder, path: str) -> None:
    assert (await world.post(path, {"model": "m"})).status == 200
    assert recorder.requests[0].path == path


async def test_a_large_body_and_a_large_answer_are_forwarded(world: World) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 200, [JSON], b"y" * 5_000_000)

    recorder = Recorder(answer)
    world.show(CATALOG, m=ready(await world.serve(recorder)))
    raw = json.dumps({"model": "m", "prompt": "x" * 5_000_000}).encode()
    assert (await world.post(CHAT, raw=raw)).body == b"y" * 5_000_000
    assert recorder.requests[0].body == raw


async def test_a_stream_is_forwarded_chunk_by_chunk(world: World) -> None:
    go_on = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False})

    world.show(CATALOG, m=ready(await world.serve(Recorder(answer))))
    async with world.http.post(CHAT, json={"model": "m"}) as response:
        assert await response.content.readany() == b"data: 1\n\n"
        go_on.set()
        assert await response.content.read() == b"data: 2\n\n"


# --- engines that fail ----------------------------------------------------------------------------


async def test_after_a_refused_connection_another_endpoint_is_tried(world: World) -> None:
    engine, url = await world.engine()
    world.show(CATALOG, m=ready(unused_url(), url, unused_url()))
    for _ in range(10):
        assert (await world.post("/v1/completions", {"model": "m", "prompt": "x"})).status == 200
    assert engine.counters.requests == 10


async def test_a_retry_uses_the_current_view(world: World) -> None:
    _, url = await world.engine()
    gone = unused_url()
    world.show(CATALOG, m=ready(gone))
    asked = asyncio.create_task(world.post("/v1/completions", {"model": "m", "prompt": "x"}))
    await until(lambda: b"upstream_retries_total 0.0" not in world.app._metrics.exposition())
    world.show(CATALOG, m=ready(url, number=2))
    answer = await asked
    assert (answer.status, answer.headers["x-broadsheet-model"]) == (200, "models/m/revisions/2")


async def test_without_a_reachable_endpoint_the_answer_is_engine_unreachable(world: World) -> None:
    world.show(CATALOG, m=ready(unused_url(), unused_url()))
    answer = await world.post("/v1/completions", {"model": "m", "prompt": "x"})
    assert (answer.status, answer.code) == (503, "engine_unreachable")
    assert answer.headers["retry-after"] == "1"
    assert "x-broadsheet-model" not in answer.headers
    assert world.app.applications_in_use() == {}


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("before", [b"", EVENTS, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"nonsense\r\n\r\n"])
async def test_after_a_crash_before_the_first_byte_another_engine_is_tried(world: World, before: bytes) -> None:
    _, url = await world.engine()
    async with RawServer(*[before] * 20) as dying:
        world.show(CATALOG, m=ready(dying.url, url))
        for _ in range(20):
            answer = await world.post("/v1/completions", {"model": "m", "prompt": "x"})
            assert (answer.status, json.loads(answer.body)["model"]) == (200, "m")
        assert dying.requests > 0


async def test_a_request_that_crashes_engines_crashes_no_more_than_two(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(RawServer()) for _ in range(4)]
        world.show(CATALOG, m=ready(*(server.url for server in servers)))
        answer = await world.post("/v1/completions", {"model": "m", "prompt": "x"})
        assert (answer.status, answer.code) == (503, "engine_unreachable")
        assert sorted(server.requests for server in servers) == [0, 0, 1, 1]


async def test_the_answer_of_another_application_on_the_same_port_is_not_forwarded(world: World) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 401, [JSON], b'{"error":"Unauthorized"}')

    stranger = Recorder(answer)
    _, url = await world.engine()
    world.show(CATALOG, m=ready(await world.serve(stranger), url))
    for _ in range(5):
        assert (await world.post("/v1/completions", {"model": "m", "prompt": "x"})).status == 200
    world.show(CATALOG, m=ready(await world.serve(stranger)))
    assert (await world.post("/v1/completions", {"model": "m", "prompt": "x"})).code == "engine_unreachable"


async def test_a_replica_with_a_dead_engine_is_skipped_and_a_crash_is_retried_once(world: World) -> None:
    async def before(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 421, [], b"")

    async def during(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 421, [(b"x-broadsheet-engine-had-request", b"1")], b"")

    _, url = await world.engine()
    world.show(CATALOG, m=ready(await world.serve(before), url))
    for _ in range(5):
        assert (await world.post("/v1/completions", {"model": "m", "prompt": "x"})).status == 200
    killed = [Recorder(during) for _ in range(4)]
    world.show(CATALOG, m=ready(*[await world.serve(engine) for engine in killed]))
    answer = await world.post("/v1/completions", {"model": "m", "prompt": "x"})
    assert (answer.status, answer.code) == (503, "engine_unreachable")
    assert sorted(len(engine.requests) for engine in killed) == [0, 0, 1, 1]


async def test_a_stream_cut_within_an_event_ends_with_an_error_event(world: World) -> None:
    cut = EVENTS + b'c\r\ndata: {"a":1\r\n'
    async with RawServer(cut) as dying:
        world.show(CATALOG, m=ready(dying.url))
        answer = await world.post(CHAT, {"model": "m"})
    assert answer.status == 200
    assert dying.requests == 1
    first, error, rest = answer.body.split(b"\n\n", 2)
    assert first == b'data: {"a":1'
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "engine_disconnected"
    assert rest == b""


@contextlib.asynccontextmanager
async def impatient_world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings(request_timeout_s=0.2))
        yield world


async def test_a_silent_engine_times_out_and_no_other_is_tried() -> None:
    left = asyncio.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async with impatient_world() as world:
        hanging = [Recorder(hang), Recorder(hang)]
        world.show(CATALOG, m=ready(*[await world.serve(engine) for engine in hanging]))
        answer = await world.post(CHAT, {"model": "m"})
        assert (answer.status, answer.code) == (504, "engine_timeout")
        assert answer.message == "The replica of the model `m` said nothing for 0.2 s."
        assert sum(len(engine.requests) for engine in hanging) == 1
        await asyncio.wait_for(left.wait(), 5)
        assert world.app.applications_in_use() == {}


@pytest.mark.parametrize(("path", "name"), [(CHAT, b""), ("/v1/messages", b"event: error\n")])
async def test_a_stream_that_falls_silent_ends_with_an_error_event(path: str, name: bytes) -> None:
    async def fall_silent(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for _ in range(4):  # together longer than the limit
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
            await asyncio.sleep(0.1)
        assert (await receive())["type"] == "http.disconnect"

    async with impatient_world() as world:
        world.show(CATALOG, m=ready(await world.serve(Recorder(fall_silent))))
        answer = await world.post(path, {"model": "m"})
    said, _, event = answer.body.partition(b"\n\n\n\n")
    assert (answer.status, said) == (200, b"\n\n".join([b"data: {}"] * 4))
    assert event.startswith(name + b"data: ")
    assert json.loads(event.removeprefix(name + b"data: "))["error"]["code"] == "engine_timeout"


async def test_anthropics_streams_end_with_anthropics_error_event(world: World) -> None:
    async with RawServer(EVENTS + b"a\r\ndata: {}\n\n\r\n") as dying:
        world.show(CATALOG, m=ready(dying.url))
        answer = await world.post("/v1/messages", {"model": "m"})
    assert b'event: error\ndata: {"type":"error","error":{' in answer.body


@pytest.mark.parametrize("framing", [b"content-length: 50\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"])
async def test_an_answer_that_is_not_a_stream_is_cut_when_its_engine_crashes(world: World, framing: bytes) -> None:
    async with RawServer(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + framing) as dying:
        world.show(CATALOG, m=ready(dying.url))
        with pytest.raises(aiohttp.ClientPayloadError):
            await world.post(CHAT, {"model": "m"})
    await until(lambda: (world.app.usage()["models/m"].in_flight, world.app.traffic.failures) == (0, 1))


async def test_the_caller_does_not_notice_a_closed_keepalive_connection(world: World) -> None:
    ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n{}"
    async with RawServer(*[ok] * 20) as closing:
        world.show(CATALOG, m=ready(closing.url))
        for _ in range(10):
            assert (await world.post(CHAT, {"model": "m"})).status == 200
