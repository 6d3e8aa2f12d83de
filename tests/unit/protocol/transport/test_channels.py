"""Channels in an environment with a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from broadsheet._connection.options import channel_options
from dataplane.sync import channel as sync_channel
from protocol.transport.credentials import Credentials

READY_TIMEOUT_S = 10.0
"""A channel to this machine is ready within milliseconds; one through the proxy never is."""


@pytest.fixture
def addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A server's addresses by their form, in an environment whose proxy is not there."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    port = server.add_insecure_port("127.0.0.1:0")
    socket, abstract = f"unix:{tmp_path}/s", f"unix-abstract:{tmp_path}/s"
    server.add_insecure_port(socket)
    server.add_insecure_port(abstract)
    server.start()
    yield {
        "number": f"127.0.0.1:{port}",
        "name": f"localhost:{port}",
        "capitals": f"LOCALHOST:{port}",
        "ipv4": f"ipv4:127.0.0.1:{port}",
        "dns": f"dns:localhost:{port}",
        "dns-uri": f"dns:///localhost:{port}",
        "socket": socket,
        "abstract": abstract,
    }
    server.stop(grace=None).wait()


FORMS = ("number", "name", "capitals", "ipv4", "dns", "dns-uri", "socket", "abstract")


@pytest.mark.parametrize("form", FORMS)
def test_a_client_reaches_this_machine_although_a_proxy_is_set(addresses: dict[str, str], form: str) -> None:
    target = addresses[form]
    assert Credentials().channel_credentials(target) is None
    with grpc.insecure_channel(target, options=channel_options(target)) as channel:
        grpc.channel_ready_future(channel).result(timeout=READY_TIMEOUT_S)


@pytest.mark.parametrize("form", FORMS)
async def test_a_data_plane_reaches_this_machine_although_a_proxy_is_set(addresses: dict[str, str], form: str) -> None:
    async with sync_channel.channel_for(Credentials(), addresses[form]) as channel:
        await asyncio.wait_for(channel.channel_ready(), READY_TIMEOUT_S)


@pytest.mark.parametrize("target", ["10.0.0.1:1", "example.org:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "dns://10.0.0.1/h:1"])
def test_other_machines_may_be_behind_a_proxy(target: str) -> None:
    assert dict(channel_options(target))["grpc.enable_http_proxy"] == 1
    assert dict(sync_channel.channel_options(target))["grpc.enable_http_proxy"] == 1
