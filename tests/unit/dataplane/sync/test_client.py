"""The Sync client at its end."""

from __future__ import annotations

import asyncio
from typing import cast

import grpc
import grpc.aio
import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.sync.client import SyncCall, SyncClient
from dataplane.sync.events import Identity
from tests.raw import POLICY
from tests.stream.sync_world import DataPlane


class FailingCall:
    """A call that fails in the moment in which it is given up."""

    async def read(self) -> pb.SyncResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "refused") from None
        raise AssertionError("nothing arrives")

    async def write(self, _: pb.SyncRequest) -> None:
        pass


async def test_a_stream_that_fails_while_the_client_is_cancelled_does_not_keep_it_running() -> None:
    client = SyncClient(
        "127.0.0.1:1",
        identity=Identity(data_plane="dp", instance_uid="i"),
        policy=POLICY,
        handlers=DataPlane(),
        serving=None,
    )
    client._subscriber.open()
    talking = asyncio.create_task(client._talk(cast(SyncCall, FailingCall())))
    await asyncio.sleep(0.01)
    talking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talking
