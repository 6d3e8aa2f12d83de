"""An etcd server and its client, to compare the registry's commits with in `make bench-registry`.

It needs neither privileges nor an installed server: without one, Debian's package is unpacked into
a temporary directory.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc

from tests.ports import free_port

PUT = "/etcdserverpb.KV/Put"
"""The method that commits a value."""

_PACKAGE = "etcd-server"
_START_TIMEOUT_S = 30.0


class EtcdServer:
    """A running server, which waits for the disk at each commit."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        """HOST:PORT."""
        self._put = channel.unary_unary(PUT, request_serializer=bytes, response_deserializer=lambda content: content)

    async def put(self, key: str, value: bytes) -> None:
        """Commit a value."""
        await self._put(put_request(key, value))


def put_request(key: str, value: bytes) -> bytes:
    """The serialised request of `PUT`."""
    return _field(1, key.encode()) + _field(2, value)


@asynccontextmanager
async def running_etcd(directory: Path) -> AsyncIterator[EtcdServer]:
    """A server with its data below `directory`, until the block ends.

    Raises:
        RuntimeError: It cannot be had or does not start; says why.
    """
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    log = directory / "etcd.log"
    arguments = [
        *(str(_binary(directory)), "--data-dir", str(directory / "etcd"), "--name", "bench"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"bench={peer}"),
    ]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*arguments, stdout=output, stderr=output)
    try:
        address = client.removeprefix("http://")
        async with grpc.aio.insecure_channel(address) as channel:
            server = EtcdServer(address, channel)
            await _wait_until_ready(server, process, log)
            yield server
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _wait_until_ready(server: EtcdServer, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(_START_TIMEOUT_S):
        while True:
            try:
                return await server.put("ready", b"")
            except grpc.aio.AioRpcError:
                if process.returncode is not None:
                    raise RuntimeError(f"etcd did not start; see {log}") from None
                await asyncio.sleep(0.1)


def _binary(directory: Path) -> Path:
    installed = shutil.which("etcd")
    if installed is not None:
        return Path(installed)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("etcd, which the registry is compared with, is not installed; neither is apt-get to get it")
    packages = directory / "packages"
    packages.mkdir()
    _run("apt-get", "-qq", "download", _PACKAGE, directory=packages)
    (package,) = packages.glob("*.deb")
    _run("dpkg-deb", "--extract", package.name, ".", directory=packages)
    return packages / "usr" / "bin" / "etcd"


def _run(*command: str, directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"etcd: {' '.join(command)} failed; try `apt-get update` first:\n{done.stderr}")


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's encoding. etcd's own messages are not installed."""
    length, prefix = len(content), bytes([number << 3 | 2])
    while length > 0x7F:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    return prefix + bytes([length]) + content
