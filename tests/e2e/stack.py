"""Both planes as processes, the way a user runs them, and a look into their Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from broadsheet import Client
from dataplane.launch.environment import LOOPBACK_RAY, RAY_TOKEN_FILE
from tests.death_signal import sent_at_our_death
from tests.ports import free_port

START_S = 90.0
STOP_S = 60.0
LOOK_S = 60.0
LIVENESS_TIMEOUT_S = 20.0
"""Longer than any step of an engine on two busy cores."""


def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for `condition`, or fail and say what was waited for.

    At most a quarter of the time is spent on evaluating it: a look into Ray takes processor time.
    """
    deadline = time.monotonic() + timeout_s
    began = time.monotonic()
    while not condition():
        ended = time.monotonic()
        assert ended < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(max(0.1, 3 * (ended - began)))
        began = time.monotonic()


@dataclass
class Process:
    """The process of a plane."""

    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                env=self.environment,
                preexec_fn=sent_at_our_death(signal.SIGTERM),
            )

    @property
    def runs(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def kill(self, number: signal.Signals) -> int:
        assert self.popen is not None
        self.popen.send_signal(number)
        return self.popen.wait(STOP_S)

    def stop(self) -> None:
        """Stop it in an orderly way, if it runs."""
        if self.runs:
            self.kill(signal.SIGTERM)


class Lookout:
    """A process beside a data plane that looks into its Ray cluster: `tests/e2e/ray_look.py`."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    def look(self, *look: str) -> Any:
        """The answer to a request. Thread-safe."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            too_late = threading.Timer(LOOK_S, self._process.kill)
            too_late.start()
            try:
                self._process.stdin.write(json.dumps(look).encode() + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = b""
            finally:
                too_late.cancel()
        assert line, self._log.read_text(errors="replace")[-4000:]
        return json.loads(line)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        with self._process:
            self._process.kill()


@dataclass
class Stack:
    """A control plane and a data plane on this machine, from `start` to `stop`."""

    directory: Path
    controlplane_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    http_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    dataplane_arguments: Sequence[str] = ()
    _openai: openai.OpenAI | None = None
    _lookout: Lookout | None = None
    _looks_at: subprocess.Popen[bytes] | None = None
    """The data plane that `_lookout` looks into. A restarted data plane has another cluster."""

    def __post_init__(self) -> None:
        # Ray's sockets have paths of at most 107 characters: pytest's directory is too deep.
        self._ray_directory = tempfile.mkdtemp(prefix="bs-ray-")
        self.environment = {**os.environ, "RAY_TMPDIR": self._ray_directory, "HF_HUB_OFFLINE": "1"}
        self.controlplane = self._process(
            "controlplane", "--listen", self.controlplane_address, "--data-dir", str(self.directory / "controlplane")
        )
        self.dataplane = self._process(
            "dataplane",
            *("--controlplane", self.controlplane_address, "--http", self.http_address),
            *("--data-dir", str(self.directory / "dataplane"), "--drain-s", "10", "--failure-backoff-s", "2"),
            *("--engine-liveness-timeout-s", f"{LIVENESS_TIMEOUT_S:g}", *self.dataplane_arguments),
        )

    def _process(self, plane: str, *arguments: str) -> Process:
        command = [str(Path(sys.executable).parent / "broadsheet"), plane, *arguments]
        return Process(command, self.directory / f"{plane}.log", self.environment)

    @property
    def url(self) -> str:
        """Where the OpenAI API is."""
        return f"http://{self.http_address}"

    def start(self) -> None:
        self.controlplane.start()
        self.dataplane.start()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until the ingress is ready."""

        def ready() -> bool:
            assert self.dataplane.runs, self.dataplane.log.read_text(errors="replace")[-4000:]
            return self.readyz() == 200

        until(ready, START_S, f"/readyz; see {self.directory}")

    def stop(self) -> None:
        if self._openai is not None:
            self._openai.close()
        self._close_lookout()
        self.dataplane.stop()
        self.controlplane.stop()

    def readyz(self) -> int:
        """Status of /readyz; 0 when nobody answers."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code
        except httpx.HTTPError:
            return 0

    def client(self) -> Client:
        return Client(self.controlplane_address)

    def openai(self) -> openai.OpenAI:
        """A shared client of the OpenAI API. It does not retry, so that tests see every failure."""
        if self._openai is None:
            self._openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=300.0, max_retries=0)
        return self._openai

    def _ray_address(self) -> str:
        """The address of this stack's Ray: others may run on this machine."""
        found: list[str] = re.findall(r"ray_ready .*?address=(\S+)", self.dataplane.log.read_text(errors="replace"))
        return found[-1]

    def _ray_program(self, *program: str) -> tuple[list[str], dict[str, str]]:
        """Command and environment of a Python program that joins this stack's Ray.

        The address is appended to its arguments.
        """
        token_file = str(self.directory / "dataplane" / RAY_TOKEN_FILE)
        environment = {
            **self.environment,
            **LOOPBACK_RAY,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": token_file,
        }
        return [sys.executable, *program, self._ray_address()], environment

    def look(self, *look: str) -> Any:
        """What a function of `tests/e2e/ray_look.py` returns, given its name and arguments."""
        if self._lookout is None or not self._lookout.runs or self._looks_at is not self.dataplane.popen:
            self._close_lookout()
            program = self._ray_program("-m", "tests.e2e.ray_look")
            self._lookout, self._looks_at = Lookout(*program, self.directory / "lookout.log"), self.dataplane.popen
        return self._lookout.look(*look)

    def _close_lookout(self) -> None:
        if self._lookout is not None:
            self._lookout.close()
            self._lookout = None

    def applications(self) -> dict[str, list[str]]:
        """Ids of the live replicas by application, from Ray Serve itself."""
        found: dict[str, list[str]] = self.look("replicas")
        return found

    def engine_metrics(self, model: str) -> Callable[[str], float]:
        """A function from a metric's name to the sum of its series, of a model's only engine."""
        ((url, secret),) = self.look("engines", model)

        def value(metric: str) -> float:
            answer = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {secret}"}).raise_for_status()
            found = re.findall(rf"^{re.escape(metric)}(?:{{.*}})? (\S+)$", answer.text, re.MULTILINE)
            assert found, f"{metric} is none of the engine's metrics"
            return sum(map(float, found))

        return value

    def memory_bytes(self) -> int:
        """All memory that Ray can allocate. For Ray it is only a number."""
        found: int = self.look("memory_bytes")
        return found

    def processes(self, title: str) -> list[psutil.Process]:
        """The data plane's processes with this title. Ray and vLLM set the titles."""
        assert self.dataplane.popen is not None
        found = []
        for process in psutil.Process(self.dataplane.popen.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                    found.append(process)
        return found

    def process(self, title: str) -> psutil.Process:
        """The only process with this title. Titles are set after the processes have started."""
        until(lambda: len(self.processes(title)) == 1, 10, f"one process with the title {title}")
        (found,) = self.processes(title)
        return found

    def kill_replica(self, application: str) -> None:
        """`kill -9` the process of an application's first live replica."""
        os.kill(self.look("process", application), signal.SIGKILL)

    def engine_replicas(self, model_id: str) -> list[str]:
        """Ids of the live engine replicas of a model."""
        return sorted(
            replica
            for name, replicas in self.applications().items()
            if name.rpartition("-")[0] == f"broadsheet-{model_id}"
            for replica in replicas
        )
