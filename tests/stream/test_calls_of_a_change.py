"""How much Python a change of the catalog takes: a count, which no busy machine moves."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from types import FrameType

from broadsheet.v1 import registry_service_pb2 as pb
from tests.bench.unary_load import Calls, Load, Measured
from tests.registry_world import spec
from tests.stream.registry_plane import registry_plane

CLIENTS = 32
SECONDS = 0.7

CALLS_MAX = 1100
"""Calls of Python functions for one of many RegisterModel at a time: 970 to 990 on 2026-11-29, and
1,180 to 1,240 before."""


def registering(address: str, prefix: str) -> Calls:
    common = pb.RegisterModelRequest(spec=spec()).SerializeToString()

    def request(number: int) -> bytes:
        own = pb.RegisterModelRequest(model_id=f"{prefix}-{number}", request_id=str(uuid.uuid4()))
        return common + own.SerializeToString()

    return Calls(address=address, method="/broadsheet.v1.RegistryService/RegisterModel", request=request)


async def counted(calls: Calls) -> tuple[int, Measured]:
    """Calls of Python functions in this thread, which is that of the control plane."""
    count = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        measured = await asyncio.to_thread(Load(calls).run, CLIENTS, SECONDS)
    finally:
        sys.setprofile(None)
    return count, measured


async def test_a_change_takes_few_calls_of_functions(tmp_path: Path) -> None:
    async with registry_plane(tmp_path) as plane:
        # Messages, statements and imports are made ready by the first changes.
        await asyncio.to_thread(Load(registering(plane.address, "warm")).run, CLIENTS, 0.2)

        count, measured = await counted(registering(plane.address, "counted"))

        head = await plane.world.store.head()
    assert head.entry_count >= measured.calls > CLIENTS, "every call has registered a model"
    assert count / measured.calls <= CALLS_MAX, f"{count} calls of functions for {measured.calls} changes"
