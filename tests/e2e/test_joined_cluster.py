"""A data plane on a Ray cluster that others use too: it outlives the processes that launch it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.certificates import Authority
from tests.e2e.real_model import ask
from tests.e2e.stack import Process, Stack, until
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BIN = Path(sys.executable).parent
RAY_ACCESS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Environment of all that joins the cluster: `ray start` requires a token by default."""
SPEC = {
    "engine": {"kind": "SIMULATED"},
    "resources": {"cpus": 0},
    "scaling": {"min_replicas": 1},
}


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray cluster of one node, beside others that may run on this machine."""
    # Ray's sockets have paths of at most 107 characters: pytest's directory is too deep.
    directory = tempfile.mkdtemp(prefix="bs-ray-")
    environment = {**os.environ, **RAY_ACCESS, "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"]
    command += [f"--port={port}", f"--temp-dir={directory}", "--node-ip-address=127.0.0.2"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"]
    with (Path(directory) / "start.log").open("ab") as log:
        ray = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    until(lambda: answers("127.0.0.2", port), 90, f"Ray to start; see {directory}")
    yield f"127.0.0.2:{port}"
    for process in (*psutil.Process(ray.pid).children(recursive=True), ray):
        process.kill()
    ray.wait(30)
    shutil.rmtree(directory, ignore_errors=True)


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class Launcher(Process):
    """One more launcher of a data plane."""

    def await_line(self, part: bytes) -> None:
        """Wait until its log has a line with this part."""
        until(lambda: part in self.log.read_bytes(), 60, f"{part!r} in {self.log}")

    def ends(self) -> int:
        """Its exit status, once it has ended by itself."""
        assert self.popen is not None
        return self.popen.wait(90)


class Joined(Stack):
    """A control plane, and a data plane whose launcher may be any process."""

    ray_address = ""

    def launcher(self, name: str, *arguments: str) -> Launcher:
        command = [*self.dataplane.command, *arguments]
        return Launcher(command, self.directory / f"{name}.log", self.environment)

    def command(self, *arguments: str, data_plane: str = "shared-1") -> subprocess.CompletedProcess[str]:
        """A command about a data plane of the cluster."""
        given = [*arguments, "--ray-address", self.ray_address, "--data-plane-id", data_plane]
        return subprocess.run(
            [str(BIN / "broadsheet"), "dataplane", *given],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def joined(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    directory = tmp_path_factory.mktemp("joined")
    authority = Authority(directory)
    files = authority.issue("engines.example")
    made = Joined(
        directory,
        dataplane_arguments=(
            *("--ray-address", ray_address, "--data-plane-id", "shared-1"),
            *("--engine-tls-cert", str(files.cert), "--engine-tls-key", str(files.key)),
            *("--engine-tls-ca", str(authority.file), "--engine-tls-server-name", "engines.example"),
        ),
    )
    made.ray_address = ray_address
    made.environment.update(RAY_ACCESS)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def metrics(stack: Stack, caller: httpx.Client) -> str:
    """What the ingress replica of this connection shows; nothing if it stops."""
    try:
        return caller.get(f"{stack.url}/metrics").text
    except httpx.TransportError:
        return ""


def connections(stack: Stack) -> dict[str, float]:
    """Open connections of each ingress replica while 8 more are open."""
    with contextlib.ExitStack() as clients:
        callers = [clients.enter_context(httpx.Client(timeout=5)) for _ in range(8)]
        for caller in callers:
            metrics(stack, caller)
        shown = [metrics(stack, caller) for caller in callers]
        found = (re.search(r'^broadsheet_ingress_connections{replica="(.+)"} (.+)$', text, re.M) for text in shown)
        return {one[1]: float(one[2]) for one in found if one is not None}


def ingress_replicas(stack: Stack) -> set[str]:
    """Ids of the ingress replicas that answer. They share connections that are open together."""
    return set(connections(stack))


def test_a_killed_launcher_leaves_its_data_plane_running_and_another_finds_it(joined: Joined) -> None:
    with joined.client() as client:
        client.register_model("sim", spec=SPEC)
        client.wait_until_serving("sim", timeout_s=60, require_ready=True)
    replicas = ingress_replicas(joined)
    joined.dataplane.kill(signal.SIGKILL)
    assert "simulated answer" in ask(joined, "sim")

    second = joined.launcher("second")
    second.start()
    second.await_line(b"serving")
    assert b"data_plane_found_as_asked_for" in second.log.read_bytes()
    with joined.client() as client:  # the first launcher started its replicas, and the second shows their logs
        client.register_model("other", spec=SPEC)
    second.await_line(b"engine_ready")
    assert b"url=https://127.0.0.2:" in second.log.read_bytes()
    assert second.kill(signal.SIGTERM) == 0
    assert b"data_plane_keeps_running" in second.log.read_bytes()
    assert "simulated answer" in ask(joined, "sim")
    assert ingress_replicas(joined) == replicas
    counts = connections(joined)
    assert counts.keys() == replicas
    assert max(counts.values()) - min(counts.values()) <= 1


def test_status_shows_agent_ingress_position_and_applications(joined: Joined) -> None:
    shown = joined.command("status", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    seen = json.loads(shown.stdout)
    assert (seen["agent"], seen["ingress"], len(seen["ingress_replicas"])) == ("RUNNING", "RUNNING", 2)
    assert seen["position"]["catalog_revision"] == 2
    assert [(one["model"], one["state"], one["ready_replicas"]) for one in seen["applications"]] == [
        ("models/other", "RUNNING", 1),
        ("models/sim", "RUNNING", 1),
    ]


def test_another_data_plane_of_the_cluster_is_neither_joined_nor_stopped(joined: Joined) -> None:
    http = f"127.0.0.1:{free_port()}"
    directory = str(joined.directory / "neighbour")
    arguments = ("--data-plane-id", "shared", "--data-dir", directory, "--ingress-replicas", "1", "--detach")
    neighbour = joined.launcher("neighbour", *arguments, "--http", http)
    neighbour.start()
    assert neighbour.ends() == 0
    until(lambda: httpx.get(f"http://{http}/readyz", timeout=2).status_code == 200, 60, "the neighbour's /readyz")
    with joined.client() as client:
        client.wait_until_serving("sim", timeout_s=60, require_ready=True)
    assert "simulated answer" in ask(joined, "sim")

    stopped = joined.command("stop", data_plane="shared")
    assert (stopped.returncode, "data plane shared is stopped" in stopped.stderr) == (0, True)
    assert "simulated answer" in ask(joined, "sim")


def test_other_settings_update_it_in_place_and_stop_ends_it_and_who_follows_it(joined: Joined) -> None:
    replicas = ingress_replicas(joined)
    third = joined.launcher("third", "--max-body-bytes", "4096")
    third.start()
    third.await_line(b"serving")
    assert "max_body_bytes: 33554432 → 4096" in third.log.read_text()
    until(lambda: not ingress_replicas(joined) & replicas, 30, "the ingress replicas to be replaced")
    refused = httpx.post(f"{joined.url}/v1/chat/completions", content=b" " * 5000, timeout=10)
    assert refused.status_code == 413
    assert "simulated answer" in ask(joined, "sim")

    stopped = joined.command("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert third.ends() == 0
    assert b"data_plane_was_stopped" in third.log.read_bytes()
    assert joined.readyz() == 0
    gone = joined.command("status")
    assert (gone.returncode, "launched on this Ray cluster: none" in gone.stderr) == (1, True)
