"""Both planes as processes of their own, the way a user runs them, and a look into their Ray cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai

from dataplane.__main__ import RAY_TOKEN_FILE
from modelplane import Client

START_S = 90.0
STOP_S = 60.0

_LOOK = """
import json, sys, ray
ray.init(address=sys.argv[1], namespace="modelplane", log_to_driver=False, configure_logging=False)
from ray.serve.context import _get_global_client
details = _get_global_client().get_serve_details()
print(json.dumps({
    name: sorted(
        replica["replica_id"]
        for deployment in application["deployments"].values()
        for replica in deployment["replicas"]
        if replica["state"] in ("STARTING", "RUNNING")
    )
    for name, application in details["applications"].items()
}))
"""

_PROCESS = """
import sys, ray
ray.init(address=sys.argv[1], namespace="modelplane", log_to_driver=False, configure_logging=False)
from ray.serve.context import _get_global_client
details = _get_global_client().get_serve_details()
for deployment in details["applications"][sys.argv[2]]["deployments"].values():
    print(deployment["replicas"][0]["pid"])
"""

_ENGINES = """
import json, sys, ray
ray.init(address=sys.argv[1], namespace="modelplane", log_to_driver=False, configure_logging=False)
from dataplane.board import open_board
from dataplane.posts import APPLICATION_PREFIX, ENGINE_PREFIX
values = ray.get(open_board().poll.remote([APPLICATION_PREFIX, ENGINE_PREFIX], "", 0, frozenset())).changed
records = {value.name: value for key, value in values.items() if key.startswith(APPLICATION_PREFIX)}
print(json.dumps([
    [value.url, records[key.removeprefix(ENGINE_PREFIX).partition("/")[0]].secret]
    for key, value in values.items()
    if key.startswith(ENGINE_PREFIX)
    and records[key.removeprefix(ENGINE_PREFIX).partition("/")[0]].model == sys.argv[2]
]))
"""


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for `condition`, or fail saying what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.1)


@dataclass
class Process:
    """One plane."""

    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment)

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


@dataclass
class Stack:
    """A control plane and a data plane on this machine. Start it with `start`, end it with `stop`."""

    directory: Path
    controlplane_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    http_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    _openai: openai.OpenAI | None = None

    def __post_init__(self) -> None:
        # Ray's sockets have paths of at most 107 characters, so its directory is not below pytest's.
        self._ray_directory = tempfile.mkdtemp(prefix="mp-ray-")
        self.environment = {**os.environ, "RAY_TMPDIR": self._ray_directory, "HF_HUB_OFFLINE": "1"}
        self.controlplane = self._process(
            "controlplane", "--listen", self.controlplane_address, "--data-dir", str(self.directory / "controlplane")
        )
        self.dataplane = self._process(
            "dataplane",
            *("--controlplane", self.controlplane_address, "--http", self.http_address),
            *("--data-dir", str(self.directory / "dataplane"), "--drain-s", "10", "--failure-backoff-s", "2"),
        )

    def _process(self, plane: str, *arguments: str) -> Process:
        command = [str(Path(sys.executable).parent / "modelplane"), plane, *arguments]
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
        """The one client of the OpenAI API, which `stop` closes. It does not retry: every failure is seen."""
        if self._openai is None:
            self._openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=300.0, max_retries=0)
        return self._openai

    def _ray_address(self) -> str:
        """Of this stack's own Ray: others may run on this machine."""
        found: list[str] = re.findall(r"ray_ready .*?address=(\S+)", self.dataplane.log.read_text(errors="replace"))
        return found[-1]

    def ray_script(self, script: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Command and environment that run `script` in a process of its own, with the address of this stack's Ray."""
        token_file = str(self.directory / "dataplane" / RAY_TOKEN_FILE)
        environment = {**self.environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_file}
        return [sys.executable, "-c", script, self._ray_address(), *arguments], environment

    def _look(self, script: str, *arguments: str) -> str:
        """The last line that `script` prints."""
        command, environment = self.ray_script(script, *arguments)
        looked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert looked.returncode == 0, looked.stderr
        return looked.stdout.splitlines()[-1]

    def applications(self) -> dict[str, list[str]]:
        """What Ray Serve itself says: ids of the live replicas, by application."""
        found: dict[str, list[str]] = json.loads(self._look(_LOOK))
        return found

    def engine_metrics(self, model: str) -> Callable[[str], float]:
        """What the one engine of a model says of itself: the sum of a metric's series, by the metric's name."""
        ((url, secret),) = json.loads(self._look(_ENGINES, model))

        def value(metric: str) -> float:
            answer = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {secret}"}).raise_for_status()
            found = re.findall(rf"^{re.escape(metric)}(?:{{.*}})? (\S+)$", answer.text, re.MULTILINE)
            assert found, f"{metric} is none of the engine's metrics"
            return sum(map(float, found))

        return value

    def kill_replica(self, application: str) -> None:
        """`kill -9` the process of an application's first live replica."""
        os.kill(int(self._look(_PROCESS, application)), signal.SIGKILL)

    def engine_replicas(self, model_id: str) -> list[str]:
        """Ids of the live engine replicas of a model."""
        return sorted(
            replica
            for name, replicas in self.applications().items()
            if name.rpartition("-")[0] == f"modelplane-{model_id}"
            for replica in replicas
        )
