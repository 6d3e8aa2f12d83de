"""Starts what is compared. docs/ingress-benchmark.md lists the settings of each."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.ingress import answers, plan
from tests.bench.ingress.processes import Process, StartError
from tests.bench.ingress.served import catalogs
from tests.ports import free_port

PATH = "/v1/chat/completions"
ENVIRONMENTS = Path(__file__).resolve().parents[3] / ".bench"
"""Where `scripts/install-bench` puts the peers."""
_READY_S = 180.0
"""How long a subject may take until it answers. Ray and LiteLLM take half a minute."""
_POLL_INTERVAL_S = 0.2
_HTTP_TIMEOUT_S = 60.0
_ENGINE_PROCESSES = 2


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A path to the engine that is up."""

    name: str
    port: int
    processes: Sequence[Process]
    headers: Mapping[str, str]
    """Of each request."""

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}{PATH}"

    def cpu_s(self) -> float:
        """Seconds of CPU time that its processes have used."""
        return sum(process.cpu_s() for process in self.processes)

    def memory_bytes(self) -> int:
        """Memory of its processes."""
        return sum(process.memory_bytes() for process in self.processes)

    def resident_bytes(self) -> int:
        """Memory of its processes, all that they share included, whoever else shares it."""
        return sum(process.resident_bytes() for process in self.processes)

    def ask(self, case: plan.Case) -> str | None:
        """Send one request of a case. Returns what is wrong with its answer; None: nothing."""
        body = answers.request_body(case.answer, model=case.model, body_bytes=case.body_bytes)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_HTTP_TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("POST", PATH, body, {"content-type": "application/json", **self.headers})
            answer = connection.getresponse()
            content = answer.read()
        return answers.fault(case.answer, answer.status, content)

    def wait_until_ready(self) -> None:
        """Wait until a request is answered as it should be.

        Raises:
            StartError: It is not in time.
        """
        case = plan.Case(name="ready")
        until = time.monotonic() + _READY_S
        for process in self.processes:
            process.wait_for_port(self.port, timeout_s=_READY_S)
        while True:
            try:
                wrong = self.ask(case)
            except (OSError, http.client.HTTPException) as error:
                wrong = str(error)
            if wrong is None:
                return
            if time.monotonic() > until:
                raise StartError(f"{self.name} does not answer: {wrong}; {self.processes[0].log_tail()}")
            time.sleep(_POLL_INTERVAL_S)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where subjects are started."""

    folder: Path
    """For logs and configurations."""
    engine_port: int
    processes: list[Process]
    """Gets every process that was started, to end it."""

    @property
    def engine_url(self) -> str:
        """Of the mock engine, without a path."""
        return f"http://127.0.0.1:{self.engine_port}"

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        environment: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Subject:
        """Start a subject that is one process with its children."""
        process = Process(name, command, self.folder, environment=environment)
        self.processes.append(process)
        return Subject(name=name, port=port, processes=(process,), headers=headers or {})


def start(name: str, place: Place) -> Subject:
    """Start a subject. It is not ready yet.

    Raises:
        StartError: It is not installed.
    """
    return _STARTS[name](name, place)


def _direct(name: str, place: Place) -> Subject:
    command = [sys.executable, "-m", "tests.bench.ingress.served.engine", str(place.engine_port)]
    found = [Process(f"engine-{number}", command, place.folder) for number in range(_ENGINE_PROCESSES)]
    place.processes.extend(found)
    return Subject(name=name, port=place.engine_port, processes=found, headers={})


def _router(name: str, place: Place) -> Subject:
    port = free_port()
    command = [_installed("vllm-router", "vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", place.engine_url, "--policy", "round_robin"]
    command += ["--max-concurrent-requests", "1024", "--log-level", "warning"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    return place.start(name, command, port=port)


def _litellm(name: str, place: Place) -> Subject:
    port = free_port()
    parameters = {"model": f"openai/{catalogs.BASE}", "api_base": f"{place.engine_url}/v1", "api_key": "none"}
    config = place.folder / "litellm.json"  # JSON is YAML
    config.write_text(json.dumps({"model_list": [{"model_name": catalogs.BASE, "litellm_params": parameters}]}))
    command = [_installed("litellm", "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    # Otherwise it asks the network for prices, and tells it that it has started.
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    # It does not start without a key that is hard to guess.
    environment["LITELLM_MASTER_KEY"] = key = f"sk-{secrets.token_hex(32)}"
    headers = {"authorization": f"Bearer {key}"}
    return place.start(name, [*command, "--num_workers", "1"], port=port, environment=environment, headers=headers)


def _serve(name: str, place: Place) -> Subject:
    return _serve_with(name, place, {})


def _serve_haproxy(name: str, place: Place) -> Subject:
    own = place.folder / "h"  # Serve adds 57 characters, and a socket's path has 97 at most
    options = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        # Another HAProxy of this machine is left alone.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }
    return _serve_with(name, place, options)


def _serve_with(name: str, place: Place, options: Mapping[str, str]) -> Subject:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.ingress.served.serve_app", str(port)]
    # The first keeps Ray on loopback, as in a data plane.
    environment = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", **options}
    return place.start(name, command, port=port, environment=environment)


def _floor(name: str, place: Place) -> Subject:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.ingress.served.forwarder", str(port), str(place.engine_port)]
    return place.start(name, command, port=port)


def _ours(name: str, place: Place) -> Subject:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.ingress.served.ours", str(port), place.engine_url]
    command += ["--names", str(plan.NAMES[name])]
    if name == plan.BARE:
        return place.start(name, command, port=port)
    headers = {"authorization": f"Bearer {catalogs.KEY}"}
    return place.start(name, [*command, "--everything"], port=port, headers=headers)


def _installed(environment: str, program: str) -> str:
    path = ENVIRONMENTS / environment / "bin" / program
    if not path.exists():
        raise StartError(f"{environment} is not installed; scripts/install-bench installs it")
    return str(path)


_STARTS: Mapping[str, Callable[[str, Place], Subject]] = {
    plan.DIRECT: _direct,
    plan.ROUTER: _router,
    plan.LITELLM: _litellm,
    plan.SERVE: _serve,
    plan.SERVE_HAPROXY: _serve_haproxy,
    plan.FLOOR: _floor,
    plan.BARE: _ours,
    plan.FULL: _ours,
    plan.FULL_10: _ours,
    plan.FULL_100K: _ours,
}
