"""The command line where streams, encodings and the terminal's size are not what it expects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import yaml

from broadsheet.types import Model
from broadsheet.v1.registry_service_pb2 import ListModelsResponse
from tests.unit.client.conftest import ScriptedServer

RUN = "import sys; from broadsheet.cli import main; sys.exit(main())"
NAME = "Zoë \U0001f916"


def run(
    arguments: Sequence[str | bytes], *, redirect: str = "", stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own, as a shell would with `redirect`."""
    shell = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", RUN, *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    return subprocess.run(shell, input=stdin, capture_output=True, env={**kept, **environment}, timeout=60, check=False)


@pytest.fixture
def listed(server: ScriptedServer) -> list[str]:
    """The arguments that list one model, which has a name with characters beyond ASCII."""
    model = Model(name="models/m", served_name="m")
    model.labels["name"] = NAME
    model.revision.card.display_name = NAME
    answer = ListModelsResponse(models=[model]).SerializeToString()
    server.answer = lambda method, request, context: answer
    return ["model", "list", "--endpoint", server.endpoint]


@pytest.mark.parametrize("columns", ["0", "-1", "", "wide", "²"])
def test_a_width_that_is_none_is_no_width(listed: list[str], columns: str) -> None:
    for arguments in (listed, ["model", "--help"]):
        done = run(arguments, COLUMNS=columns, LINES=columns)
        assert (done.returncode, done.stderr) == (0, b"")
        assert max(len(line) for line in done.stdout.decode().splitlines()) > 20


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_an_ascii_terminal_gets_escapes(listed: list[str], output: str) -> None:
    done = run([*listed, "--output", output], PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("ascii")
    if output != "table":
        loaded = json.loads(text) if output == "json" else yaml.safe_load(text)
        assert loaded["models"][0]["labels"]["name"] == NAME


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing_else(listed: list[str], redirect: str) -> None:
    done = run(listed, redirect=redirect)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"m" in done.stdout) is (" >&-" not in f" {redirect}")


def test_a_result_that_cannot_be_written_is_a_failure(listed: list[str]) -> None:
    for arguments in (listed, [*listed, "-o", "json"], ["--version"]):
        done = run(arguments, redirect=">/dev/full")
        assert done.returncode == 1
        assert done.stderr.decode().startswith("error: ")
        assert "No space left on device" in done.stderr.decode()
        assert b"Traceback" not in done.stderr


LATIN_1 = "café".encode("latin-1")


@pytest.mark.parametrize(
    "arguments",
    [
        ["model", "get", LATIN_1],
        ["model", "list", "--filter", LATIN_1],
        ["model", "list", "--token", LATIN_1],
        ["model", "list", "--endpoint", LATIN_1 + b":80"],
        ["model", "register", "m", "--source", "hf://o/n", "--label", b"a=" + LATIN_1],
        ["model", "register", LATIN_1, "--source", "hf://o/n"],
        ["chat", "m", LATIN_1, "--url", "http://127.0.0.1:1"],
        ["chat", "m", "hello", "--api-key", LATIN_1, "--url", "http://127.0.0.1:1"],
    ],
    ids=str,
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_arguments_that_are_not_utf_8_are_refused_in_words(
    server: ScriptedServer, arguments: list[str | bytes], encoding: str
) -> None:
    done = run(arguments, PYTHONIOENCODING=encoding, BROADSHEET_ENDPOINT=server.endpoint)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert "surrogates not allowed" not in done.stderr.decode()


def test_standard_input_that_is_not_utf_8_is_refused() -> None:
    done = run(["chat", "m", "--url", "http://127.0.0.1:1"], stdin=LATIN_1, PYTHONIOENCODING="utf-8")
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
    assert b"not UTF-8" in done.stderr
