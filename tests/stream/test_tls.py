"""TLS and mTLS of the control plane, HTTPS of the ingress; certificates that are replaced while
connections live."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from structlog.testing import capture_logs

from broadsheet import AsyncClient
from broadsheet.errors import PermissionDenied, Unauthenticated, Unavailable
from broadsheet.v1 import snapshot_service_pb2
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from controlplane import errors
from controlplane.access.permissions import Role
from controlplane.principal import Principal
from controlplane.rpc.tls import server_credentials
from dataplane.openai.asgi import JSON, Receive, Scope, Send, send_whole
from dataplane.openai.tls import ServerTls
from dataplane.sync.channel import channel_for
from protocol.transport.credentials import Credentials
from protocol.transport.tls_files import TlsFiles, TlsFilesError
from tests.certificates import Authority, Files
from tests.stream.access_world import TOKENS, bearer, guarded_plane


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def presented_serial(address: str, authority: Authority) -> int:
    """Serial number of the certificate that a new handshake sees."""

    def shake() -> int:
        context = ssl.create_default_context(cafile=str(authority.file))
        context.set_alpn_protocols(["h2", "http/1.1"])
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname=host) as s,
        ):
            certificate = s.getpeercert(binary_form=True)
            assert certificate is not None
            return x509.load_der_x509_certificate(certificate).serial_number

    return await asyncio.to_thread(shake)


async def test_a_replaced_certificate_is_used_for_the_next_handshake_only(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue()
    first = files.serial
    credentials = Credentials(tls_ca=authority.file, token=TOKENS[Role.ADMIN])
    async with (
        guarded_plane(tmp_path, tls=server_credentials(files.cert, files.key, None)) as plane,
        AsyncClient(plane.address, credentials=credentials) as client,
        channel_for(credentials, plane.address) as data_plane,
    ):
        stream = SnapshotServiceStub(data_plane).Sync(metadata=bearer(TOKENS[Role.DATA_PLANE]))
        hello = snapshot_service_pb2.Hello(data_plane="dp", instance_uid="1")
        await stream.write(snapshot_service_pb2.SyncRequest(hello=hello))
        answers: Any = aiter(stream)
        intent = (await anext(answers)).intent
        assert (await anext(answers)).HasField("commit")
        assert await presented_serial(plane.address, authority) == first

        other = authority.issue()
        second = other.serial
        files.replace_with(other)
        assert await presented_serial(plane.address, authority) == second
        async with AsyncClient(plane.address, credentials=credentials) as newcomer:
            await newcomer.register_model("m", spec={"engine": {"kind": "SIMULATED"}})

        # A stream that was opened before the change continues, and so does its connection.
        status = snapshot_service_pb2.Status(
            target=intent.to, serving=intent.to, phase=snapshot_service_pb2.PHASE_ACTIVE
        )
        await stream.write(snapshot_service_pb2.SyncRequest(status=status))
        announced = await anext(answers)
        while not announced.HasField("intent"):
            announced = await anext(answers)
        assert announced.intent.to.revision == 1
        assert [model.name async for model in client.list_models()] == ["models/m"]
        stream.cancel()


async def test_a_key_that_does_not_match_is_ignored(tmp_path: Path, authority: Authority) -> None:
    files, other = authority.issue(), authority.issue()
    first, second = files.serial, other.serial
    async with guarded_plane(tmp_path, tls=server_credentials(files.cert, files.key, None)) as plane:
        good_key = other.key.read_bytes()
        files.cert.write_bytes(other.cert.read_bytes())
        with capture_logs() as logs:
            assert await presented_serial(plane.address, authority) == first
        assert [entry["event"] for entry in logs].count("certificate_not_reloaded") == 1
        files.key.write_bytes(good_key)
        assert await presented_serial(plane.address, authority) == second


async def test_without_the_authority_or_without_tls_calls_fail(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue()
    async with guarded_plane(tmp_path, tls=server_credentials(files.cert, files.key, None)) as plane:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for credentials in (Credentials(), Credentials(tls_ca=Authority(elsewhere).file)):
            async with AsyncClient(plane.address, credentials=credentials, timeout_s=5) as client:
                with pytest.raises(Unavailable):
                    await client.get_model("m")


async def test_a_client_certificate_is_an_identity_with_a_role(tmp_path: Path, authority: Authority) -> None:
    server, viewer, stranger = authority.issue(), authority.issue("ci.example.org"), authority.issue("x.example.org")
    tls = server_credentials(server.cert, server.key, authority.file)
    certificates = {"ci.example.org": Principal(name="ci.example.org", role=Role.VIEWER, authentication="mtls")}

    def shown(files: Files | None, token: str = "") -> Credentials:
        if files is None:
            return Credentials(tls_ca=authority.file, token=token)
        return Credentials(tls_ca=authority.file, tls_cert=files.cert, tls_key=files.key, token=token)

    async with guarded_plane(tmp_path, tls=tls, certificates=certificates) as plane:
        async with AsyncClient(plane.address, credentials=shown(viewer)) as client:
            assert [model async for model in client.list_models()] == []
            with pytest.raises(PermissionDenied, match=r"ci\.example\.org has the role viewer"):
                await client.delete_model("m")
        async with AsyncClient(plane.address, credentials=shown(stranger)) as client:
            with pytest.raises(Unauthenticated) as caught:
                await client.get_model("m")
            assert (caught.value.reason, caught.value.metadata["names"]) == ("CERTIFICATE_UNKNOWN", "x.example.org")
        async with AsyncClient(plane.address, credentials=shown(stranger, TOKENS[Role.ADMIN])) as client:
            await client.register_model("m", spec={"engine": {"kind": "SIMULATED"}})
        async with AsyncClient(plane.address, credentials=shown(None, TOKENS[Role.ADMIN]), timeout_s=5) as client:
            with pytest.raises(Unavailable):
                await client.get_model("m")


def test_files_that_cannot_be_used_are_named(tmp_path: Path, authority: Authority) -> None:
    first, second = authority.issue(), authority.issue()
    garbage = tmp_path / "garbage"
    garbage.write_text("no certificate")
    for cert, key, client_ca, expected in (
        (tmp_path / "nowhere", first.key, None, "nowhere: No such file"),
        (first.cert, tmp_path / "nowhere", None, "nowhere: No such file"),
        (first.cert, tmp_path, None, "Is a directory"),
        (first.cert, second.key, None, f"{second.key} is not the key of the certificate in {first.cert}"),
        (garbage, first.key, None, "PEM"),
        (first.cert, first.key, garbage, f"{garbage} holds no certificate"),
    ):
        with pytest.raises(errors.SetupError) as caught:
            server_credentials(cert, key, client_ca)
        assert expected in str(caught.value)


def test_a_change_is_reported_once(authority: Authority) -> None:
    files, other = authority.issue(), authority.issue()
    watched = TlsFiles(files.cert, files.key)
    watched.read()
    assert watched.changed() is None
    files.key.write_bytes(b"")
    with pytest.raises(TlsFilesError):
        watched.changed()
    assert watched.changed() is None
    files.replace_with(other)
    changed = watched.changed()
    assert changed is not None
    assert changed.chain == files.cert.read_bytes()


async def test_the_ingress_uses_a_replaced_certificate(tmp_path: Path, authority: Authority) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 200, [JSON], b"{}")

    files = authority.issue()
    first = files.serial
    tls = ServerTls(files.cert, files.key)
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ssl_context_factory=lambda config, default: tls.context,
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener])),
        asyncio.create_task(tls.keep_current(interval_s=0.02)),
    ]
    async with httpx.AsyncClient(
        base_url=f"https://{address}", verify=ssl.create_default_context(cafile=str(authority.file)), trust_env=False
    ) as client:
        response = await client.get("/")
        kept = response.extensions["network_stream"].get_extra_info("client_addr")
        assert await presented_serial(address, authority) == first
        other = authority.issue()
        second = other.serial
        files.replace_with(other)
        async with asyncio.timeout(5):
            while await presented_serial(address, authority) != second:  # noqa: ASYNC110  # a handshake has no event
                await asyncio.sleep(0.02)
        again = await client.get("/")
        assert again.extensions["network_stream"].get_extra_info("client_addr") == kept
    server.should_exit = True
    await tasks[0]
    tasks[1].cancel()
    await asyncio.wait(tasks)
