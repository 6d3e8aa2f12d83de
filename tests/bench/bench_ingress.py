"""The cost of the ingress: a simulated engine asked directly and through the ingress.

    python -m tests.bench.bench_ingress [--rounds 5] [--seconds 2]

Engine, ingress and load each run in a process of their own, with uvloop and httptools as in
production. The two paths take turns, so that a noisy machine disturbs both; what counts is their
ratio. Printed: the median over the rounds, and in brackets the lowest and the highest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import uvicorn
import uvloop

from dataplane.engine.simulated.app import SimulatedSettings, build_app
from dataplane.ingress.app import IngressApp
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai.asgi import Receive, Scope, Send
from tests import views

STREAM_TOKENS = 50
CATALOG_MODELS = 1000
BODY: Mapping[str, object] = {"model": "m", "messages": [{"role": "user", "content": "How much does a request cost?"}]}
STREAM_BODY: Mapping[str, object] = {**BODY, "stream": True, "max_tokens": STREAM_TOKENS, "ignore_eos": True}


def run_engine(port: int) -> None:
    """Serve the simulated engine."""
    app = build_app(SimulatedSettings(), random=random.Random(0), clock=time.monotonic)
    serve(app, port)


def run_ingress(port: int, engine_port: int) -> None:
    """Serve an ingress that knows a thousand models, one of them ready."""
    holder = ViewHolder()
    app = IngressApp(
        views=holder,
        wake=lambda _: None,
        settings=IngressSettings(),
        random=random.Random(0),
        time_of_day=time.time,
        monotonic=time.monotonic,
        replica="bench",
    )
    names = ["m", *(f"m{number}" for number in range(1, CATALOG_MODELS))]
    catalog = views.snapshot(*(views.model(name) for name in names), views.adapter("m", "a"))
    holder.swap(views.view(catalog, {"m": views.ready(f"http://127.0.0.1:{engine_port}")}))
    serve(app, port)


def serve(app: Callable[[Scope, Receive, Send], object], port: int) -> None:
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=75,
    )


@dataclass(frozen=True)
class Measurement:
    """The result of one measurement of one path."""

    p50_ms: float
    requests_per_s: float
    streams_per_s: float


async def measure(port: int, seconds: float, model: str) -> Measurement:
    latencies = await load(port, {**BODY, "model": model}, clients=1, seconds=seconds)
    requests = await load(port, {**BODY, "model": model}, clients=16, seconds=seconds)
    streams = await load(port, {**STREAM_BODY, "model": model}, clients=8, seconds=seconds)
    return Measurement(statistics.median(latencies) * 1000, len(requests) / seconds, len(streams) / seconds)


async def load(port: int, body: Mapping[str, object], *, clients: int, seconds: float) -> list[float]:
    """Send requests over kept connections. Returns the seconds of each answer."""
    content = json.dumps(body).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"content-length: " + str(len(content)).encode() + b"\r\n\r\n" + content
    )
    until = time.perf_counter() + seconds
    taken = await asyncio.gather(*(_client(port, request, until) for _ in range(clients)))
    return [latency for client in taken for latency in client]


async def _client(port: int, request: bytes, until: float) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken = []
    while (begun := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
            await reader.readexactly(int(length))
        taken.append(time.perf_counter() - begun)
    writer.close()
    return taken


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def wait_for(port: int) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"nothing listens on port {port}")


async def compare(rounds: int, seconds: float) -> None:
    ports = {"engine": free_port(), "ingress": free_port()}
    command = [sys.executable, "-m", "tests.bench.bench_ingress", "--engine-port", str(ports["engine"])]
    processes = [
        subprocess.Popen([*command, "--role", role, "--port", str(port)])  # noqa: ASYNC220  # nothing else runs yet
        for role, port in ports.items()
    ]
    try:
        for port in ports.values():
            await wait_for(port)
        await measure(ports["ingress"], 0.5, "m")  # connections and caches are warm
        paths = {"direct": ("engine", "m"), "ingress": ("ingress", "m"), "ingress, adapter": ("ingress", "m:a")}
        results: dict[str, list[Measurement]] = {name: [] for name in paths}
        for _ in range(rounds):
            for name, (role, model) in paths.items():
                results[name].append(await measure(ports[role], seconds, model))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    report(results)


def report(results: dict[str, list[Measurement]]) -> None:
    columns: list[tuple[str, Callable[[Measurement], float]]] = [
        ("c=1 p50, ms", lambda measurement: measurement.p50_ms),
        ("c=16 requests/s", lambda measurement: measurement.requests_per_s),
        (f"c=8 streams/s of {STREAM_TOKENS} tokens", lambda measurement: measurement.streams_per_s),
    ]
    for title, read in columns:
        sys.stdout.write(f"{title}\n")
        direct = [read(measurement) for measurement in results["direct"]]
        for name, measurements in results.items():
            values = [read(measurement) for measurement in measurements]
            ratios = [value / base for value, base in zip(values, direct, strict=True)]
            sys.stdout.write(f"  {name:18} {spread(values):30} × direct: {spread(ratios)}\n")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--role", choices=["engine", "ingress"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--engine-port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "engine":
        run_engine(arguments.port)
    elif arguments.role == "ingress":
        run_ingress(arguments.port, arguments.engine_port)
    else:
        uvloop.run(compare(arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
