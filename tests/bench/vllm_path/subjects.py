"""What is asked: Broadsheet, its engine replica, `vllm serve`, and a router before that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from broadsheet import Client
from tests.bench.output import tell
from tests.bench.vllm_path.load import Target
from tests.bench.vllm_path.rows import DIRECT, PLAIN, THROUGH
from tests.death_signal import sent_at_our_death
from tests.e2e.stack import Stack
from tests.ports import free_port

ROUTER = "router"
UP_TIMEOUT_S = 420.0
"""An 8B model with CUDA graphs takes 80 s alone, and longer beside others."""
_POLL_S = 0.2
_STOP_S = 30.0
_MODEL_ID = "measured"

Groups = Mapping[str, Sequence[psutil.Process]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Somebody who answers."""

    name: str
    targets: Sequence[Target]
    processes: Groups
    """By what they are for."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How every engine of a comparison is set up, so that only the path differs."""

    source: Path
    args: Mapping[str, object]
    """Engine arguments of vLLM."""
    own_args: Mapping[str, object]
    """More of them, for Broadsheet's engine only."""
    accelerators: int
    simulated: bool


def cpu_during(processes: Groups) -> Callable[[float, float], dict[str, float]]:
    """A function that observes CPU seconds per second, between two points in time."""

    def used(group: Sequence[psutil.Process]) -> float:
        total = 0.0
        for process in group:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def during(begin: float, end: float) -> dict[str, float]:
        time.sleep(max(0.0, begin - time.time()))
        before, began = {name: used(group) for name, group in processes.items()}, time.time()
        time.sleep(max(0.0, end - time.time()))
        passed = time.time() - began
        return {name: (used(group) - before[name]) / passed for name, group in processes.items()}

    return during


@contextlib.contextmanager
def broadsheet(directory: Path, engine: Engine, data_plane_args: Sequence[str]) -> Iterator[list[Subject]]:
    """Both planes with one model: through the ingress, and its replica asked directly."""
    stack = Stack(directory, dataplane_arguments=data_plane_args)
    for plane in (stack.controlplane, stack.dataplane):
        if not Path(plane.command[0]).exists():  # a machine where nothing is installed, only unpacked
            plane.command = [sys.executable, "-c", "from broadsheet.cli import main; main()", *plane.command[1:]]
    try:
        stack.start()
        with stack.client() as client:
            _register(client, engine)
        began = time.monotonic()
        host, port = stack.http_address.rsplit(":", 1)
        through = Target(host, int(port), _MODEL_ID)
        _ask(through)
        tell(f"  broadsheet: first answer after {time.monotonic() - began:.0f} s")
        yield _own_subjects(stack, through)
    finally:
        stack.stop()


def _register(client: Client, engine: Engine) -> None:
    spec: dict[str, object] = {
        "scaling": {"downscale_to_zero_delay": "3600s"},
        "admission": {"cold_start_timeout": f"{UP_TIMEOUT_S:g}s"},
    }
    if engine.simulated:
        spec["engine"] = {"kind": "SIMULATED", "args": {"tokens_per_second": 200, "max_tokens": 64}}
    else:
        spec["source"] = {"uri": engine.source.as_uri()}
        spec["engine"] = {"kind": "VLLM", "args": {**engine.args, **engine.own_args}}
        spec["resources"] = {"accelerators": engine.accelerators}
    client.register_model(_MODEL_ID, spec=spec)
    client.wait_until_serving(_MODEL_ID, timeout_s=60)


def _own_subjects(stack: Stack, through: Target) -> list[Subject]:
    (replica,) = stack.processes(f"ray::ServeReplica:broadsheet-{_MODEL_ID}-")
    direct = []
    for url, secret in stack.look("front_ends", f"models/{_MODEL_ID}"):
        host, port = url.rpartition("/")[2].rsplit(":", 1)
        direct.append(Target(host, int(port), _MODEL_ID, secret))
    engine_processes = _parts(replica, direct)
    ingress = {"ingress": stack.processes("ray::ServeReplica:broadsheet-ingress")}
    return [
        Subject(name=THROUGH, targets=[through], processes={**ingress, **engine_processes}),
        Subject(name=DIRECT, targets=direct, processes=engine_processes),
    ]


def _parts(root: psutil.Process, targets: Sequence[Target]) -> Groups:
    """The front ends of an engine, which are its first process and those that listen, and the rest.

    vLLM's titles do not tell them apart: they are not set everywhere.
    """
    ports = {target.port for target in targets}
    front_ends, core = [root], list[psutil.Process]()
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            listens = {
                connection.laddr.port for connection in child.net_connections("tcp") if connection.status == "LISTEN"
            }
            (front_ends if listens & ports else core).append(child)
    return {"front ends": front_ends, "core": core}


class Plain:
    """A `vllm serve` that starts. Others may start meanwhile."""

    def __init__(self, directory: Path, engine: Engine, api_servers: int, caches: Path) -> None:
        """
        Args:
            directory: For its log.
            engine: How it is set up.
            api_servers: Its front-end processes.
            caches: Where it keeps what it compiles. Two that start at once must not share a cache.
        """
        self.name = f"{PLAIN}{api_servers}"
        self.port = free_port()
        flags = [f"--model={engine.source}", f"--served-model-name={_MODEL_ID}", *_flags(engine.args)]
        if api_servers > 1:
            flags.append(f"--api-server-count={api_servers}")
        command = [sys.executable, "-m", "tests.bench.vllm_path.plain_serve", *flags]
        self._server = Server(
            self.name,
            [*command, "--host=127.0.0.1", f"--port={self.port}"],
            directory,
            {"VLLM_CACHE_ROOT": str(caches / f"cache-{self.name}")},
        )

    def up(self) -> Subject:
        """Wait until it answers."""
        self._server.wait(f"http://127.0.0.1:{self.port}/health")
        target = Target("127.0.0.1", self.port, _MODEL_ID)
        _ask(target)
        processes = _parts(psutil.Process(self._server.process.pid), [target])
        return Subject(name=self.name, targets=[target], processes=processes)

    def stop(self) -> None:
        self._server.stop()


class Router:
    """vllm-router before a `vllm serve`."""

    def __init__(self, directory: Path, before: Subject, site: Path) -> None:
        """
        Args:
            directory: For its log.
            before: The only engine that it routes to.
            site: Where its wheel is unpacked.
        """
        self._before = before
        self._port = free_port()
        (engine,) = before.targets
        command = [sys.executable, "-m", "vllm_router.launch_router", "--worker-urls"]
        path = os.pathsep.join((str(site), os.environ.get("PYTHONPATH", "")))
        self._server = Server(
            ROUTER,
            [*command, f"http://{engine.host}:{engine.port}", "--host", "127.0.0.1", "--port", str(self._port)],
            directory,
            {"PYTHONPATH": path},
        )

    def up(self) -> Subject:
        """Wait until it answers."""
        self._server.wait(f"http://127.0.0.1:{self._port}/health")
        target = Target("127.0.0.1", self._port, _MODEL_ID)
        _ask(target)
        root = psutil.Process(self._server.process.pid)
        own = {"router": [root, *root.children(recursive=True)]}
        return Subject(name=ROUTER, targets=[target], processes={**own, **self._before.processes})

    def stop(self) -> None:
        self._server.stop()


class Server:
    """A server process with a log."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        self._name = name
        self._log = directory / f"{name}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", **environment},
                preexec_fn=sent_at_our_death(signal.SIGTERM),
            )
        self._began = time.monotonic()

    def wait(self, url: str) -> None:
        """Wait until a URL answers with 200.

        Raises:
            RuntimeError: it does not, with the end of the log.
        """
        while time.monotonic() - self._began < UP_TIMEOUT_S and self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=2).status_code == 200:
                    tell(f"  {self._name}: up after {time.monotonic() - self._began:.0f} s")
                    return
            time.sleep(_POLL_S)
        raise RuntimeError(f"{self._name} is not up: {self._log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            everybody = [root, *root.children(recursive=True)]
            root.terminate()
            for process in psutil.wait_procs(everybody, timeout=_STOP_S)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


def _flags(args: Mapping[str, object]) -> list[str]:
    flags = []
    for name, value in args.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags.append(f"{flag}={value if isinstance(value, str) else json.dumps(value)}")
    return flags


def _ask(target: Target) -> None:
    """Ask once, and wait for the answer, however long a start takes."""
    body = {"model": target.model, "messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 4}
    url = f"http://{target.host}:{target.port}/v1/chat/completions"
    answer = httpx.post(url, json=body, timeout=UP_TIMEOUT_S + 30)
    if answer.status_code != 200:
        raise RuntimeError(f"{url} answered {answer.status_code}: {answer.text[:3000]}")
