"""`broadsheet chat` against a real ingress, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator

import pytest
import yaml

from broadsheet.cli import main
from dataplane.ingress.limits import IngressSettings
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from tests import views
from tests.stream.ingress_world import World, ready, serving

ANSWER = "simulated answer of smol to: ahoy there"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        world = World(stack)
        await world.start(IngressSettings())
        _, url = await world.engine()
        world.show(views.snapshot(views.model("smol")), smol=ready(url))
        monkeypatch.setenv("BROADSHEET_URL", world.url)
        yield world


async def chat(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["chat", *arguments])


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
async def test_a_prompt_gets_its_answer(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert await chat("smol", "ahoy there", flag, "--temperature", "0") == 0
    assert capsys.readouterr().out == ANSWER + "\n"


@pytest.mark.usefixtures("world")
async def test_max_tokens_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert await chat("smol", "ahoy there", "--max-tokens", "3") == 0
    assert capsys.readouterr().out == "simulated answer of\n"


@pytest.mark.usefixtures("world")
async def test_json_and_yaml_are_the_whole_response(capsys: pytest.CaptureFixture[str]) -> None:
    assert await chat("smol", "ahoy there", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["choices"][0]["message"]["content"] == ANSWER
    assert await chat("smol", "ahoy there", "-o", "yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"] == "smol"


@pytest.mark.usefixtures("world")
async def test_the_prompt_may_come_from_stdin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("ahoy there\n"))
    assert await chat("smol") == 0
    assert capsys.readouterr().out == ANSWER + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert await chat("smol") == 2


@pytest.mark.usefixtures("world")
async def test_a_conversation_goes_on_after_an_error_and_ends_with_the_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("ahoy there\n\nand again\n"))
    assert await chat("smol") == 0
    # The simulated engine repeats the whole conversation that it is sent.
    first, second = capsys.readouterr().out.splitlines()
    assert (first, second) == (ANSWER, f"{ANSWER} {ANSWER} and again")
    monkeypatch.setattr("sys.stdin", Terminal("ahoy\nahoy\n"))
    assert await chat("nobody") == 0
    assert capsys.readouterr().err.count("nobody") == 2


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
async def test_an_unknown_model_shows_the_error_of_the_ingress(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert await chat("nobody", "ahoy", flag) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "nobody" in err
    assert "HTTP 404" in err
    assert "model_not_found" in err
    assert "{" not in err


async def test_an_unreachable_data_plane_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert await chat("smol", "ahoy", "--url", "http://127.0.0.1:1") == 3
    err = capsys.readouterr().err
    assert "cannot reach the data plane at http://127.0.0.1:1" in err
    assert "broadsheet dataplane" in err


async def test_an_invalid_url_is_exit_code_2() -> None:
    assert await chat("smol", "ahoy", "--url", "127.0.0.1:8000") == 2
    assert await chat("smol", "ahoy", "--max-tokens", "0") == 2


EVENT = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'

BROKEN = {
    "no end": ([EVENT], "broke off"),
    "an error in the stream": (
        [EVENT, b'data: {"error": {"message": "out of memory", "type": "server_error", "code": 500}}\n\n'],
        "out of memory (server_error, 500)",
    ),
    "no JSON": ([EVENT, b"data: oops\n\n"], "not JSON: oops"),
    "no object": ([EVENT, b"data: 7\n\n"], "no JSON object: 7"),
}


@pytest.mark.parametrize(("chunks", "expected"), BROKEN.values(), ids=BROKEN.keys())
async def test_an_answer_that_breaks_off_is_a_failure(
    capsys: pytest.CaptureFixture[str], chunks: list[bytes], expected: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with serving(app) as url:
        assert await chat("smol", "ahoy", "--url", url) == 1
    out, err = capsys.readouterr()
    assert out == "half"
    assert expected in err


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (502, b"<html>bad gateway</html>", "HTTP 502, and no JSON object: <html>bad gateway</html>"),
        (503, b'{"error": {"message": "starting", "type": "server_error", "code": null}}', "try again in 7 s"),
        (500, b'{"detail": "x"}', "HTTP 500: {'detail': 'x'}"),
        (200, b"[]", "no JSON object"),
    ],
)
async def test_errors_of_other_servers_are_shown(
    capsys: pytest.CaptureFixture[str], status: int, body: bytes, expected: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, status, [JSON, (b"retry-after", b"7")], body)

    async with serving(app) as url:
        assert await chat("smol", "ahoy", "--no-stream", "--url", url) == 1
    assert expected in capsys.readouterr().err


async def test_an_api_key_is_sent(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = await world.engine()
    world.show(views.snapshot(views.model("smol"), views.api_key("alice", "bs-a")), smol=ready(url))
    assert await chat("smol", "ahoy there") == 1
    assert "invalid_api_key" in capsys.readouterr().err
    assert await chat("smol", "ahoy there", "--api-key", "bs-a") == 0
    monkeypatch.setenv("BROADSHEET_API_KEY", "bs-a")
    assert await chat("smol", "ahoy there") == 0
