"""The control plane as a process: it starts, prints its address, drains and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from broadsheet import AsyncClient
from broadsheet.errors import PermissionDenied, Unauthenticated
from broadsheet.v1 import (
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from protocol.signing.heads import verify_head
from protocol.signing.signatures import Verifier
from protocol.transport import local_tokens
from protocol.transport.credentials import Credentials
from protocol.transport.key_files import make_private_key, read_private_keys
from tests.certificates import Authority
from tests.registry_world import spec
from tests.stream.sync_world import eventually

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 8
"""Less than the 10 s that RPCs may take to end, so that an RPC that hangs fails the test."""


class Process:
    """A running control plane."""

    def __init__(self, process: asyncio.subprocess.Process, listening: dict[str, Any], metrics_address: str) -> None:
        self.process = process
        self.address: str = listening["address"]
        self.metrics_address = metrics_address
        self.store_uid: str = listening["store_uid"]
        self.catalog_revision: int = listening["catalog_revision"]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The token that it has written for clients on this machine."""
        return Credentials().metadata(self.address)

    async def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            return await self.process.wait()


async def start(data_dir: Path, *flags: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-m",
        "controlplane",
        "--data-dir",
        str(data_dir),
        "--log-format",
        "json",
        *flags,
        stderr=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.startswith("BROADSHEET_")},
        cwd=Path(__file__).parents[2],
    )


@asynccontextmanager
async def running(data_dir: Path, *flags: str) -> AsyncIterator[Process]:
    process = await start(data_dir, "--listen", "127.0.0.1:0", *flags)
    try:
        assert process.stderr is not None
        metrics_address = ""
        async with asyncio.timeout(START_TIMEOUT_S):
            listening = json.loads(await process.stderr.readline())
            if listening["event"] == "signing_key_made":
                listening = json.loads(await process.stderr.readline())
            if listening["event"] == "metrics_listening":
                metrics_address = listening["address"]
                listening = json.loads(await process.stderr.readline())
        assert listening["event"] == "listening", listening
        yield Process(process, listening, metrics_address)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path) as plane, grpc.aio.insecure_channel(plane.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        states = aiter(watch)
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
        assert await plane.stop(number) == 0
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_open_calls_and_streams_are_answered_before_the_process_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as plane, grpc.aio.insecure_channel(plane.address) as channel:
        stream = snapshot_service_pb2_grpc.SnapshotServiceStub(channel).Sync(metadata=plane.metadata)
        hello = snapshot_service_pb2.Hello(data_plane="d", instance_uid="one")
        await stream.write(snapshot_service_pb2.SyncRequest(hello=hello))
        messages = aiter(stream)
        intent = (await anext(messages)).intent
        assert intent.mode == snapshot_service_pb2.Intent.MODE_FULL
        # The data plane does not answer, so this call waits for it.
        request = fleet_service_pb2.WaitForRevisionRequest(revision=0, timeout=duration_pb2.Duration(seconds=60))
        waiting = asyncio.ensure_future(
            fleet_service_pb2_grpc.FleetServiceStub(channel).WaitForRevision(request, metadata=plane.metadata)
        )
        done, _ = await asyncio.wait((waiting,), timeout=0.5)
        assert not done
        assert await plane.stop(signal.SIGTERM) == 0
        answer = await waiting
        assert [outcome.data_plane for outcome in answer.outcomes] == ["dataPlanes/d"]
        assert not answer.active_everywhere
        said = [message.WhichOneof("message") async for message in messages]
        assert said[-1] == "goodbye"


async def test_metrics_show_calls_streams_and_the_newest_revision(tmp_path: Path) -> None:
    async with (
        running(tmp_path, "--metrics-listen", "127.0.0.1:0") as plane,
        grpc.aio.insecure_channel(plane.address) as channel,
        httpx.AsyncClient(base_url=f"http://{plane.metrics_address}") as http,
    ):
        registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        for model_id in ("m", "n", "M!"):
            with contextlib.suppress(grpc.aio.AioRpcError):
                request = registry_service_pb2.RegisterModelRequest(model_id=model_id, spec=spec())
                await registry.RegisterModel(request, metadata=plane.metadata)
        stream = snapshot_service_pb2_grpc.SnapshotServiceStub(channel).Sync(metadata=plane.metadata)
        hello = snapshot_service_pb2.Hello(data_plane="d", instance_uid="one")
        await stream.write(snapshot_service_pb2.SyncRequest(hello=hello))
        async for message in stream:
            if message.HasField("commit"):
                break
        shown = (await http.get("/metrics")).text.splitlines()
        stream.cancel()
    register = 'method="broadsheet.v1.RegistryService/RegisterModel"'
    for line in (
        f'broadsheet_controlplane_rpcs_total{{code="OK",{register}}} 2.0',
        f'broadsheet_controlplane_rpcs_total{{code="INVALID_ARGUMENT",{register}}} 1.0',
        f"broadsheet_controlplane_rpc_seconds_count{{{register}}} 3.0",
        "broadsheet_controlplane_commits_total 2.0",
        "broadsheet_controlplane_catalog_revision 2.0",
        "broadsheet_controlplane_commit_revisions_sum 2.0",
        "broadsheet_controlplane_commit_seconds_count 2.0",
        'broadsheet_controlplane_streams{state="ANSWER_EXPECTED"} 1.0',
        'broadsheet_controlplane_data_planes{phase="UNSPECIFIED"} 1.0',
    ):
        assert line in shown
    sent = [line for line in shown if line.startswith('broadsheet_controlplane_sent_bytes_total{mode="FULL"}')]
    assert len(sent) == 1
    assert float(sent[0].split()[1]) > 100


async def test_it_signs_with_a_key_that_it_makes_and_with_another_one_once_it_is_there(tmp_path: Path) -> None:
    directory = tmp_path / "signing-keys"
    async with running(tmp_path) as plane, AsyncClient(plane.address) as client:
        before = await client.fetch_snapshot()
        (made,) = await asyncio.to_thread(read_private_keys, directory)
        assert _signers(before) == {made.public.id}
        verifier = Verifier([made.public])
        assert verify_head(verifier, before.signed_head.SerializeToString(), before.position, before.entry_count)
        added = await asyncio.to_thread(make_private_key, directory)
        await eventually(lambda: _is_signed_by(client, made.public.id, added.stem))


def _signers(snapshot: snapshot_service_pb2.FetchSnapshotResponse) -> set[str]:
    return {signature.key_id for signature in snapshot.signed_head.signatures}


async def _is_signed_by(client: AsyncClient, *key_ids: str) -> bool:
    return _signers(await client.fetch_snapshot()) == set(key_ids)


async def test_acknowledged_changes_survive_a_kill(tmp_path: Path) -> None:
    async with running(tmp_path) as plane, grpc.aio.insecure_channel(plane.address) as channel:
        registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        await registry.RegisterModel(
            registry_service_pb2.RegisterModelRequest(model_id="m", spec=spec()), metadata=plane.metadata
        )
        assert await plane.stop(signal.SIGKILL) == -signal.SIGKILL
    async with running(tmp_path) as again, grpc.aio.insecure_channel(again.address) as channel:
        assert (again.store_uid, again.catalog_revision) == (plane.store_uid, 1)
        registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        answer = await registry.GetModel(registry_service_pb2.GetModelRequest(name="models/m"), metadata=again.metadata)
        assert answer.model.served_name == "m"


async def test_a_second_process_learns_what_it_conflicts_with(tmp_path: Path) -> None:
    async with running(tmp_path / "first") as plane:
        for data_dir, flags, expected in (
            (tmp_path / "first", ("--listen", "127.0.0.1:0"), f"in use by process {plane.process.pid} on "),
            (tmp_path / "second", ("--listen", plane.address), f"cannot listen on {plane.address}"),
        ):
            second = await start(data_dir, *flags)
            _, error = await second.communicate()
            assert second.returncode == 1
            assert expected in error.decode()
            assert "Traceback" not in error.decode()


async def test_generated_tokens_are_readable_by_this_user_only_and_removed(tmp_path: Path) -> None:
    async with running(tmp_path) as plane:
        place = local_tokens.directory(plane.address)
        assert place is not None
        token = local_tokens.find(plane.address, local_tokens.ADMIN)
        for file in (place / "admin", place / "data-plane", tmp_path / "admin_token", tmp_path / "data-plane_token"):
            assert file.stat().st_mode & 0o777 == 0o600, file
        async with AsyncClient(plane.address) as client:
            assert [model async for model in client.list_models()] == []
        async with AsyncClient(plane.address, credentials=Credentials(token="wrong")) as stranger:
            with pytest.raises(Unauthenticated):
                await stranger.get_model("m")
        data_plane = Credentials(token_file=place / "data-plane")
        async with AsyncClient(plane.address, credentials=data_plane) as limited:
            with pytest.raises(PermissionDenied, match="data-plane"):
                await limited.get_model("m")
        assert await plane.stop(signal.SIGTERM) == 0
        assert not place.exists()
    async with running(tmp_path) as again:
        assert local_tokens.find(again.address, local_tokens.ADMIN) == token
        (tmp_path / "admin_token").chmod(0o644)
    process = await start(tmp_path, "--listen", "127.0.0.1:0")
    _, error = await process.communicate()
    assert (process.returncode, "others can read" in error.decode()) == (1, True)


async def test_tls_from_flags(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files, other = authority.issue(), authority.issue()
    async with (
        running(tmp_path, "--tls-cert", str(files.cert), "--tls-key", str(files.key)) as plane,
        AsyncClient(plane.address, credentials=Credentials(tls_ca=authority.file)) as client,
    ):
        assert [model async for model in client.list_models()] == []
    process = await start(tmp_path, "--tls-cert", str(files.cert), "--tls-key", str(other.key))
    _, error = await process.communicate()
    assert (process.returncode, "is not the key of the certificate" in error.decode()) == (1, True)
