"""The memory of an ingress process: what large bodies and idle connections make it hold.

    python -m tests.bench.bench_memory [--connections 10000] [--tls]

The ingress runs in a process of its own, with uvloop and httptools as in production, and so does an
engine that drops what it is sent. Memory is resident memory above that of the quiet process.

Bodies: the peak during one request of 32 MiB, and during 8 at once. A body is read whole before it
is forwarded, so the least that each can cost is its own size.

Idle: what a connection costs on average that was only opened, and one that is kept after a request.
The clients have several addresses of loopback, because one address has too few ports.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
import uvloop

from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai.http_protocol import protocol_class
from tests import views
from tests.bench.output import tell
from tests.certificates import Authority, Files
from tests.ingress_app import ingress_app
from tests.ports import free_port

MIB = 1024 * 1024
BODY_BYTES = 32 * MIB
AT_ONCE = 8
IDLE_KB_MAX = 30
_CONNECTIONS_OF_ADDRESS = 2000
_READ_BYTES = 1 * MIB
_SETTLE_S = 2.0
"""Until timers have run, and freed memory has gone back to the kernel."""
_START_S = 30.0


# --- the processes --------------------------------------------------------------------------------


def run_ingress(port: int, engine_port: int, tls: Files | None) -> None:
    """Serve an ingress with one model and one adapter."""
    settings = IngressSettings(max_connections=100_000, max_connections_per_address=100_000)
    holder = ViewHolder()
    app = ingress_app(holder, settings)
    catalog = views.snapshot(views.model("m"), views.adapter("m", "a"))
    holder.swap(views.view(catalog, {"m": views.ready(f"http://127.0.0.1:{engine_port}")}))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http=protocol_class(settings, app.count_refusal),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=600,
        ssl_certfile=tls.cert if tls is not None else None,
        ssl_keyfile=tls.key if tls is not None else None,
    )


async def run_engine(port: int) -> None:
    """Answer every request, and drop its body."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                left = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                while left > 0:
                    left -= len(await reader.read(min(left, _READ_BYTES)))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        await server.serve_forever()


@contextlib.contextmanager
def running(tls: Files | None) -> Iterator[tuple[int, int]]:
    """Run both processes. Yields the port and the process id of the ingress."""
    ports = {"engine": free_port(), "ingress": free_port()}
    command = [sys.executable, "-m", "tests.bench.bench_memory", "--engine-port", str(ports["engine"])]
    if tls is not None:
        command += ["--cert", str(tls.cert), "--key", str(tls.key)]
    processes = {
        role: subprocess.Popen([*command, "--role", role, "--port", str(port)]) for role, port in ports.items()
    }
    try:
        for port in ports.values():
            wait_for(port)
        yield ports["ingress"], processes["ingress"].pid
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()


def wait_for(port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def status_kb(pid: int, field: str) -> int:
    """A field of a process's status, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"the status of process {pid} has no {field}")


# --- clients --------------------------------------------------------------------------------------


class Client:
    """A connection that is kept."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="server")

    def ask(self, head: bytes, body: bytes) -> None:
        """Send a request, and read its answer.

        Raises:
            RuntimeError: It is no success.
        """
        self.socket.sendall(head + b"content-length: %d\r\n\r\n" % len(body))
        self.socket.sendall(body)
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"{}"):
            answer += (piece := self.socket.recv(65536))
            if not piece or not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"unexpected answer: {answer!r}")


def head(path: str, content_type: str = "application/json") -> bytes:
    """What a client of OpenAI sends, but for the length."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost:8000\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\n"
        f"accept: application/json\r\ncontent-type: {content_type}\r\nuser-agent: OpenAI/Python 3.0.0\r\n"
        "x-stainless-lang: python\r\nx-stainless-package-version: 3.0.0\r\nx-stainless-os: Linux\r\n"
        "x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.11.2\r\n"
        "authorization: Bearer not-a-key\r\nx-stainless-async: false\r\nx-stainless-retry-count: 0\r\n"
        "x-stainless-read-timeout: 600\r\n"
    ).encode()


def image_chat(model: str) -> bytes:
    """A chat with an image in base64."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "%"}]}).encode()
    return body.replace(b"%", b"QUJD" * ((BODY_BYTES - len(body)) // 4))


def sound_form(model: str) -> bytes:
    """A form with a file."""
    part = b'--%b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    name = part % (_BOUNDARY, b"model", model.encode())
    frame = len(name) + len(part) + 64
    return name + part % (_BOUNDARY, b'file"; filename="f', b"\0" * (BODY_BYTES - frame)) + b"--%b--\r\n" % _BOUNDARY


_BOUNDARY = b"memory"
_LARGE: Mapping[str, tuple[bytes, bytes]] = {
    "JSON, base model": (head("/v1/chat/completions"), image_chat("m")),
    "JSON, adapter": (head("/v1/chat/completions"), image_chat("m:a")),
    "form, adapter": (
        head("/v1/audio/transcriptions", f"multipart/form-data; boundary={_BOUNDARY.decode()}"),
        sound_form("m:a"),
    ),
}


# --- measurements ---------------------------------------------------------------------------------


def peak_of_bodies(port: int, pid: int, head: bytes, body: bytes, at_once: int) -> float:
    """The peak of memory during as many requests at once, in MiB above the quiet process."""
    time.sleep(_SETTLE_S)
    quiet_kb = status_kb(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    with ThreadPoolExecutor(at_once) as pool:
        for asked in [pool.submit(Client(port, None).ask, head, body) for _ in range(at_once)]:
            asked.result()
    return (status_kb(pid, "VmHWM") - quiet_kb) / 1024


def idle_kb(port: int, pid: int, connections: int, tls: ssl.SSLContext | None, *, asking: bool) -> float:
    """What an idle connection costs, in KiB."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 200}]}).encode()
    request = head("/v1/chat/completions")
    Client(port, tls).ask(request, body)  # caches
    quiet_kb = status_kb(pid, "VmRSS")
    clients = []
    for number in range(connections):
        clients.append(Client(port, tls, f"127.0.0.{2 + number // _CONNECTIONS_OF_ADDRESS}"))
        if asking:
            clients[-1].ask(request, body)
    time.sleep(_SETTLE_S)
    cost_kb = (status_kb(pid, "VmRSS") - quiet_kb) / connections
    for client in clients:
        client.socket.close()
    return cost_kb


def measure(connections: int) -> None:
    """Measure and print everything."""
    for what, (head, body) in _LARGE.items():
        for at_once in (1, AT_ONCE):
            with running(None) as (port, pid):
                peak = peak_of_bodies(port, pid, head, body, at_once)
            tell(f"{at_once} x 32 MiB, {what}: {peak:.0f} MiB, {peak / at_once / 32:.2f} x the bodies")
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(Path(directory))
        trust = ssl.create_default_context(cafile=str(authority.file))
        for files, context, scheme in ((None, None, "http"), (authority.issue("server"), trust, "https")):
            for asking in (False, True):
                with running(files) as (port, pid):
                    cost = idle_kb(port, pid, connections, context, asking=asking)
                what = "kept after a request" if asking else "without a request"
                tell(f"{connections} idle connections, {scheme}, {what}: {cost:.1f} kB each (<= {IDLE_KB_MAX} wanted)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000, help="idle connections (10000)")
    parser.add_argument("--role", choices=("engine", "ingress"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--engine-port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cert", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--key", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "engine":
        uvloop.run(run_engine(args.port))
    elif args.role == "ingress":
        run_ingress(args.port, args.engine_port, Files(args.cert, args.key) if args.cert else None)
    else:
        measure(args.connections)


if __name__ == "__main__":
    main()
