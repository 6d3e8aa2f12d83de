"""`broadsheet up --demo` as a newcomer runs it: real answers, and no process left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MARK = "BROADSHEET_TEST_RUN"
"""An environment variable that every descendant inherits.

Ray's processes leave session and process group, so those do not identify them.
"""


class Demo:
    """One run of the demo."""

    def __init__(self, output: Path, *arguments: str) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        self._output = output
        name, _, value = self._mark.partition("=")
        command = [sys.executable, "-c", "import sys; from broadsheet.cli import main; sys.exit(main())"]
        addresses = ["--listen", _free_address(), "--http", _free_address()]
        with output.open("w") as said:
            self.process = subprocess.Popen(
                [*command, "up", "--demo", *addresses, *arguments],
                stdout=said,
                stderr=subprocess.STDOUT,
                env=os.environ | {name: value},
                start_new_session=True,
            )

    def said(self) -> str:
        return self._output.read_text()

    def left(self) -> list[int]:
        """Its processes that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue  # it has ended, or belongs to another user
        return found


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.process.kill()
        demo.process.wait()
        for pid in demo.left():
            os.kill(pid, signal.SIGKILL)


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_the_demo_answers_and_leaves_nothing(tmp_path: Path, demos: list[Demo]) -> None:
    demo = Demo(tmp_path / "said", "--exit")
    demos.append(demo)
    assert demo.process.wait() == 0, demo.said()
    said = demo.said()
    assert "models/smollm2 is IDLE: no replica runs. /v1/models lists smollm2, smollm2:pirate" in said
    base, pirate = said.split("smollm2:pirate · x-broadsheet-revision: 2", maxsplit=1)
    assert "smollm2 · x-broadsheet-revision: 2" in base
    assert "Paris" in base
    assert "Arr" not in base
    assert pirate.count("Arr") == 2
    assert demo.left() == []


def test_control_c_during_the_cold_start_leaves_nothing(tmp_path: Path, demos: list[Demo]) -> None:
    demo = Demo(tmp_path / "said", "--exit")
    demos.append(demo)
    until_s = time.monotonic() + 300
    while "is IDLE" not in demo.said():
        assert demo.process.poll() is None, demo.said()
        assert time.monotonic() < until_s
        time.sleep(0.2)
    time.sleep(3.0)  # the first question is under way, and an engine starts
    assert len(demo.left()) > 5
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait() == 130
    assert "Traceback" not in demo.said()
    assert demo.left() == []
