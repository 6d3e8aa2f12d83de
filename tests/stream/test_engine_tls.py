"""TLS between the ingress and engine replicas: real certificates, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataplane.engine.http_server import serve_http
from dataplane.ingress.engine_trust import EngineTrust
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.upstream.client import Upstream
from dataplane.ingress.upstream.failures import UpstreamFailed
from dataplane.openai.tls import ServerTls
from dataplane.snapshot.activation import Endpoint
from protocol.transport.tls_files import TlsFilesError
from tests.certificates import Authority, Files
from tests.stream.ingress_world import answer_ok, until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    directory = tmp_path / "stranger"
    directory.mkdir()
    return Authority(directory)


@contextlib.asynccontextmanager
async def engine(files: Files | None) -> AsyncIterator[Endpoint]:
    """An engine replica's server, with a certificate or without."""
    tls = ServerTls(files.cert, files.key) if files is not None else None
    server, url, serving = await serve_http(answer_ok, "127.0.0.1", tls)
    try:
        yield Endpoint(replica_id="r1", url=url)
    finally:
        server.should_exit = True
        await serving


async def ask(endpoint: Endpoint, trust: EngineTrust | None) -> bytes:
    """What an ingress with this trust gets from an engine, over a new connection."""
    upstream = Upstream(IngressSettings(), trust)
    try:
        answer = await upstream.start(endpoint, "/v1/completions", b"", b"", b"{}")
        answer.close()
        return answer.first
    finally:
        await upstream.aclose()


async def test_an_engine_with_a_certificate_of_the_authority_is_asked_over_tls(authority: Authority) -> None:
    async with engine(authority.issue()) as endpoint:
        assert endpoint.url.startswith("https://127.0.0.1:")
        assert await ask(endpoint, EngineTrust(authority.file)) == b'{"ok":true}'


async def test_an_engine_of_another_authority_never_gets_the_request(authority: Authority, stranger: Authority) -> None:
    async with engine(stranger.issue()) as endpoint:
        with pytest.raises(UpstreamFailed) as caught:
            await ask(endpoint, EngineTrust(authority.file))
        assert caught.value.refused


async def test_an_engine_is_known_by_the_name_of_its_certificate(authority: Authority) -> None:
    async with engine(authority.issue("engines.example")) as endpoint:
        assert await ask(endpoint, EngineTrust(authority.file, "engines.example")) == b'{"ok":true}'
        for wrong in ("", "other.example"):
            with pytest.raises(UpstreamFailed) as caught:
                await ask(endpoint, EngineTrust(authority.file, wrong))
            assert caught.value.refused


async def test_an_engine_without_tls_is_not_asked_where_tls_is_set(authority: Authority) -> None:
    async with engine(None) as endpoint:
        assert await ask(endpoint, None) == b'{"ok":true}'
        with pytest.raises(UpstreamFailed, match="without TLS") as caught:
            await ask(endpoint, EngineTrust(authority.file))
        assert caught.value.refused


async def test_replaced_authorities_count_for_the_next_connection(authority: Authority, stranger: Authority) -> None:
    trust = EngineTrust(authority.file)
    reloading = asyncio.create_task(trust.keep_current(interval_s=0.01))
    async with engine(stranger.issue()) as endpoint:
        authority.file.write_text("half a file")
        before = trust.context
        await asyncio.sleep(0.05)
        assert trust.context is before, "what cannot be used is not taken over"
        os.replace(stranger.file, authority.file)
        await until(lambda: trust.context is not before)
        assert await ask(endpoint, trust) == b'{"ok":true}'
    reloading.cancel()


def test_a_file_without_authorities_is_refused(tmp_path: Path) -> None:
    for content in ("", "nothing", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
        (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(TlsFilesError, match=r"ca\.pem holds no certificate in PEM form"):
            EngineTrust(tmp_path / "ca.pem")
    with pytest.raises(TlsFilesError, match=r"missing\.pem"):
        EngineTrust(tmp_path / "missing.pem")
