"""The two planes of `broadsheet up`: how each starts, and how it is known to be ready."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import grpc
import httpx
from rich.console import Console

from broadsheet._connection.options import channel_options
from broadsheet.cli.commands.planes import missing_extra
from broadsheet.cli.openai_http import http_client
from broadsheet.cli.report import print_failure
from broadsheet.cli.up.supervisor import Child, ChildEnded, Supervisor
from broadsheet.cli.view.progress import say, spinner
from protocol.transport.home import absolute, substitutes

CONTROLPLANE_START_TIMEOUT_S = 60.0
DATAPLANE_START_TIMEOUT_S = 300.0
"""Starting Ray takes 10 to 30 s on a small machine."""

READY_TIMEOUT_S = 2.0
"""Deadline of one readiness check."""

DATAPLANE_DRAIN_S = 10.0
"""Time for open requests when everything stops. Short, as a person waits at the terminal."""

DATA_PLANE_ID = "local"

_NEEDS = {"controlplane": "sqlalchemy", "dataplane": "ray"}
"""A module that only the extra of the plane installs."""


class StartError(Exception):
    """The planes cannot be started, for a reason that the user can remove."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One of the two programs, and its readiness check."""

    name: str
    command: Sequence[str]
    log: Path
    ready: Callable[[], bool]
    address: str
    """Where it will listen: `host:port`."""
    flag: str
    """The flag of `up` that changes this address."""
    start_timeout_s: float


def local_planes(*, listen: str, http: str, data_dir: Path) -> list[Plane]:
    """The two planes of this machine, in the order in which they start."""
    return [
        Plane(
            name="control plane",
            command=_module("controlplane", "--listen", listen, "--data-dir", str(data_dir / "controlplane")),
            log=data_dir / "logs" / "controlplane.log",
            ready=lambda: controlplane_ready(listen),
            address=listen,
            flag="--listen",
            start_timeout_s=CONTROLPLANE_START_TIMEOUT_S,
        ),
        Plane(
            name="data plane",
            command=_module(
                *("dataplane", "--controlplane", listen, "--http", http, "--data-plane-id", DATA_PLANE_ID),
                *("--data-dir", str(data_dir / "dataplane"), "--drain-s", f"{DATAPLANE_DRAIN_S:g}"),
            ),
            log=data_dir / "logs" / "dataplane.log",
            ready=lambda: dataplane_ready(f"http://{http}"),
            address=http,
            flag="--http",
            start_timeout_s=DATAPLANE_START_TIMEOUT_S,
        ),
    ]


class NotReady(Exception):
    """A plane is running, but did not become ready in time."""

    def __init__(self, child: Child, timeout_s: float) -> None:
        super().__init__(f"{child.name} is not ready after {timeout_s:g} s")
        self.child = child


def start(
    supervisor: Supervisor, planes: Sequence[Plane], screen: Console, environment: Mapping[str, str] | None = None
) -> None:
    """Start each plane once the plane before it is ready.

    Args:
        supervisor: Owns the processes.
        planes: In the order in which they start.
        screen: Where progress is shown.
        environment: Of the children. Default: that of this process.

    Raises:
        ChildEnded: A plane ended while it was starting.
        NotReady: A plane took too long.
    """
    for plane in planes:
        started_s = time.monotonic()
        child = supervisor.start(
            plane.name,
            plane.command,
            log=plane.log,
            environment={**(environment or os.environ), "PYTHONUNBUFFERED": "1"},
        )
        with spinner(screen, f"starting the {plane.name}"):
            while not plane.ready():
                if time.monotonic() - started_s > plane.start_timeout_s:
                    raise NotReady(child, plane.start_timeout_s)
                supervisor.sleep(0.2)
        # Another program may have answered on that port while this plane was ending.
        supervisor.check()
        elapsed_s = time.monotonic() - started_s
        say(screen, f"{plane.name} ready on {plane.address} after {elapsed_s:.1f} s; log: {plane.log}")


def report(screen: Console, error: ChildEnded | NotReady) -> None:
    """Show which plane failed, and the end of its log."""
    print_failure(screen, f"the {error}")
    tail = error.child.log_tail()
    if tail:
        say(screen, f"the last lines of {error.child.log}:", style="dim")
        say(screen, tail)


def check_installed() -> None:
    """Check that both planes are installed.

    Raises:
        StartError: The extra of a plane is missing.
    """
    for plane, module in _NEEDS.items():
        for needed in (plane, module):
            if util.find_spec(needed) is None:
                raise StartError(missing_extra(plane, ModuleNotFoundError(name=needed)).removeprefix("error: "))


def check_ports(planes: Sequence[Plane]) -> None:
    """Check that both planes can listen on their addresses.

    Raises:
        StartError: An address is invalid or in use.
    """
    for plane in planes:
        host, _, port = plane.address.rpartition(":")
        if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise StartError(f"{plane.flag}: got {plane.address!r}; expected HOST:PORT")
        try:
            with socket.create_server((host.strip("[]"), int(port)), family=_family(host)):
                pass
        except OSError as error:
            raise StartError(
                f"the {plane.name} cannot listen on {plane.address}: {os.strerror(error.errno or 0)}\n"
                f"  hint: stop what listens there, or choose another address with {plane.flag} HOST:PORT"
            ) from error


def controlplane_ready(endpoint: str) -> bool:
    """Whether the control plane answers its health check."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # comes with the planes, not with the client

    with grpc.insecure_channel(endpoint, options=channel_options(endpoint)) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=READY_TIMEOUT_S)  # type: ignore[attr-defined]
            # stubs lack it
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def dataplane_ready(url: str) -> bool:
    """Whether the ingress holds an active snapshot."""
    try:
        with http_client(url) as client:
            return client.get("/readyz", timeout=READY_TIMEOUT_S).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/broadsheet`, by default `~/.local/share/broadsheet`.

    Raises:
        StartError: This user has no home directory.
    """
    try:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:
        raise StartError("this user has no home directory\n  hint: give --data-dir DIR") from error
    return base / "broadsheet"


def prepare_data_dir(data_dir: Path) -> Path:
    """Make the directory of everything that the planes keep. Returns it as an absolute path.

    Raises:
        StartError: It cannot be made or written.
    """
    try:
        directory = absolute(data_dir)
    except ValueError as error:
        raise StartError(f"--data-dir: {error}") from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
        writable = os.access(directory, os.W_OK | os.X_OK)
    except OSError as error:
        raise StartError(f"--data-dir: got {directory}: {error.strerror}") from error
    if not writable:
        raise StartError(f"--data-dir: got {directory}: this user cannot write there")
    return directory


def give_home(data_dir: Path, screen: Console) -> None:
    """Let this process and the planes work for a user without a home directory, or without a name.

    Without a home, a plane finds no token of the other, and there is no place for the demo's model.
    """
    missing = substitutes(data_dir / "home")
    if "HOME" in missing:
        (data_dir / "home").mkdir(exist_ok=True, mode=0o700)
        home = missing["HOME"]
        say(screen, f"no home directory that can be written: HOME={home} is taken instead; set it for other commands")
    os.environ.update(missing)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if host.startswith("[") else socket.AF_INET
