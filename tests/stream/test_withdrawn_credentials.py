"""An open Sync stream ends when its credential is withdrawn or expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from controlplane import errors
from controlplane.access.permissions import Role
from controlplane.principal import Principal
from tests.stream.access_world import (
    DATA_PLANE_1_TOKEN,
    TOKENS,
    Plane,
    bearer,
    entries,
    guarded_plane,
    sha256,
    write_tokens,
)
from tests.stream.sync_world import hello

SyncCall = grpc.aio.StreamStreamCall[pb.SyncRequest, pb.SyncResponse]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with guarded_plane(tmp_path) as running:
        yield running


@asynccontextmanager
async def open_stream(plane: Plane, data_plane: str, token: str) -> AsyncIterator[SyncCall]:
    """A stream that has said Hello and was answered."""
    stream = SnapshotServiceStub(plane.channel).Sync(metadata=bearer(token))
    await stream.write(hello(data_plane))
    assert isinstance(await stream.read(), pb.SyncResponse)
    try:
        yield stream
    finally:
        stream.cancel()


async def goodbye(stream: SyncCall) -> str:
    """The reason of the Goodbye that ends a stream."""
    async with asyncio.timeout(5):
        while isinstance(response := await stream.read(), pb.SyncResponse):
            if response.HasField("goodbye"):
                assert isinstance(await stream.read(), type(grpc.aio.EOF)), "nothing follows"
                return response.goodbye.reason
    return ""


async def is_open(stream: SyncCall) -> bool:
    """Whether no Goodbye comes while credentials are looked at several times."""
    reading = asyncio.create_task(goodbye(stream))
    await asyncio.sleep(0.3)
    return not reading.done()


async def test_a_token_that_leaves_the_tokens_file_ends_its_stream_alone(plane: Plane) -> None:
    async with (
        open_stream(plane, "dp-1", DATA_PLANE_1_TOKEN) as withdrawn,
        open_stream(plane, "dp-2", TOKENS[Role.DATA_PLANE]) as other,
    ):
        write_tokens(plane.tokens_file, [entry for entry in entries() if entry["name"] != "dp-1"])
        assert await goodbye(withdrawn) == "CREDENTIAL_WITHDRAWN"
        assert await is_open(other)


async def test_a_token_that_expires_ends_its_stream(plane: Plane) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.6)).isoformat()
    entry = {"name": "dp-3", "role": "data-plane", "data_plane": "dp-3", "sha256": sha256("of dp-3")}
    write_tokens(plane.tokens_file, [*entries(), {**entry, "expire_time": soon}])
    async with open_stream(plane, "dp-3", "of dp-3") as stream:
        assert await goodbye(stream) == "CREDENTIAL_EXPIRED"


async def test_a_token_that_is_given_to_another_data_plane_ends_its_stream(plane: Plane) -> None:
    async with open_stream(plane, "dp-1", DATA_PLANE_1_TOKEN) as stream:
        moved = [{**entry, "data_plane": "dp-9"} if entry["name"] == "dp-1" else entry for entry in entries()]
        write_tokens(plane.tokens_file, moved)
        assert await goodbye(stream) == "CREDENTIAL_WITHDRAWN"


async def test_a_data_plane_that_gets_a_token_of_its_own_leaves_the_one_for_any(plane: Plane) -> None:
    async with open_stream(plane, "dp-2", TOKENS[Role.DATA_PLANE]) as stream:
        own = {"name": "dp-2", "role": "data-plane", "data_plane": "dp-2", "sha256": sha256("of dp-2")}
        write_tokens(plane.tokens_file, [*entries(), own])
        assert await goodbye(stream) == "CREDENTIAL_WITHDRAWN"


async def test_a_broken_tokens_file_ends_no_stream(plane: Plane) -> None:
    async with open_stream(plane, "dp-1", DATA_PLANE_1_TOKEN) as stream:
        plane.tokens_file.write_text("tokens: [")
        assert await is_open(stream)


class Provider:
    """An identity provider whose keys may be unreachable."""

    def __init__(self) -> None:
        self.refusal: errors.DomainError | None = None

    async def principal_of(self, token: str) -> Principal | None:
        if token != "a.jwt":
            return None
        if self.refusal is not None:
            raise self.refusal
        return Principal(name="dp-4", role=Role.DATA_PLANE, authentication="oidc", data_plane="dp-4")


async def test_an_unreachable_identity_provider_ends_no_stream_and_an_expired_token_does(tmp_path: Path) -> None:
    provider = Provider()
    async with guarded_plane(tmp_path, provider) as plane, open_stream(plane, "dp-4", "a.jwt") as stream:
        provider.refusal = errors.Unavailable(errors.Reason.IDENTITY_PROVIDER_UNAVAILABLE, "it does not answer")
        reading = asyncio.create_task(goodbye(stream))
        await asyncio.sleep(0.3)
        assert not reading.done()
        provider.refusal = errors.Unauthenticated(errors.Reason.TOKEN_EXPIRED, "it has expired")
        assert await reading == "CREDENTIAL_EXPIRED"
