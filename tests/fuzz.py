"""Sends random and mutated requests to every RPC, and checks the form of each refusal.

`python -m tests.fuzz COUNT SEED` runs it with any size (`make fuzz`).
"""

from __future__ import annotations

import asyncio
import collections
import logging
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
from google.protobuf import descriptor_pool, message_factory, struct_pb2
from google.protobuf import message as protobuf_message
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_status import rpc_status

from controlplane.errors import Reason
from controlplane.fleet.fleet import fleet_of
from controlplane.push.fan_out import FanOut
from controlplane.push.subscription.timing import Limits
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.server import SERVICES, Server
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer
from tests.access import everybody_is_admin
from tests.adapter_directories import write_adapter
from tests.postgres_server import running_server
from tests.registry_world import START, open_world
from tests.sync_handler import sync_handler

CONCURRENCY = 32

_CALL_TIMEOUT_S = 20.0
_STREAM_TIMEOUT_S = 1.0
"""Timeout of RPCs that last as long as the caller waits."""

_UNSENT = "Internal error from Core"
"""Details of the INTERNAL error that grpc.aio's client makes itself when a timeout ends a send."""

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

_LASTING = frozenset({"Sync", "WaitForRevision"})

_DEPTH_MAX = 5


class Requests:
    """Makes random requests. The same seed makes the same requests."""

    def __init__(self, seed: int, adapter: Path) -> None:
        self._random = random.Random(seed)
        names = [
            "m",
            "n",
            "a",
            "models/m",
            "models/n",
            "models/-",
            "models/m/adapters/a",
            "models/m/revisions/1",
            "routes/r",
        ]
        sources = [f"file://{adapter}", "file:///", "file:///dev/zero", "hf://org/name", "s3://b/k", "file:///a/../b"]
        odd = [
            "",
            "\0",
            "m\0",
            "ü" * 100,
            "x" * 5000,
            "..",
            "%00",
            "💥",
            "models/",
            "{}",
            "'; --",
            "1e999",
            "dataPlanes/d",
        ]
        tokens = ["WzEsIjAiLDFd", "AAAA", "WzEsICJhIl0="]
        uuids = ["3f0a4f2e-6d5a-4c1e-9d0a-0123456789ab", "3F0A4F2E-6D5A-4C1E-9D0A-0123456789AB"]
        # Valid values are frequent, so that requests get past the first check.
        self._texts = [*(names * 6), *(sources * 2), *odd, *tokens, *uuids]
        self._apt = {
            "name": ["models/m", "models/n", "models/m/adapters/a", "models/n/adapters/a", "routes/r", "dataPlanes/d"],
            "parent": ["models/m", "models/n", "models/-", "routes/r"],
            "model": ["models/m", "models/n"],
            "data_planes": ["dataPlanes/d"],
            "data_plane": ["d"],
            "model_id": ["m", "n"],
            "adapter_id": ["a", "b"],
            "route_id": ["r", "s"],
            "served_name": ["", "m", "m:a", "other"],
            "uri": sources[:1],
            "request_id": ["", "", *uuids],
            "page_token": [""],
            "etag": [""],
            "filter": ["", "state = IDLE", "labels.a = m* AND NOT owner = m", "owner = 'm", "labels:a OR (model_id:*)"],
            "order_by": ["", "create_time desc", "served_name, update_time desc", "name asc"],
        }
        """Valid values of fields with these names."""
        self._integers = [0, 1, 1, 2, 3, 8, 100, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1]

    def methods(self) -> Iterator[MethodDescriptor]:
        """Random methods of all services, without end."""
        pool = descriptor_pool.Default()
        methods = [method for name in SERVICES for method in pool.FindServiceByName(name).methods]
        while True:
            yield self._random.choice(methods)

    def content(self, method: MethodDescriptor) -> bytes:
        """A request of the method as bytes, some of which are not a valid message."""
        content = self.message(method.input_type).SerializePartialToString()
        return self.mutated(content) if self._random.random() < 0.3 else content

    def message(self, descriptor: Descriptor, depth: int = 0) -> protobuf_message.Message:
        """A message with random fields."""
        message = message_factory.GetMessageClass(descriptor)()
        density = self._random.choice([0.1, 0.3, 0.6, 0.95])
        for field in descriptor.fields:
            # At the top level, fields that select a resource are set most of the time.
            wanted = 0.9 if depth == 0 and field.name in self._apt else density
            if self._random.random() < wanted and depth < _DEPTH_MAX:
                self._fill(message, field, depth)
        return message

    def _fill(self, message: protobuf_message.Message, field: FieldDescriptor, depth: int) -> None:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            for _ in range(self._random.choice([1, 2, 70])):
                key = self._scalar(kind.fields_by_name["key"])
                value = kind.fields_by_name["value"]
                if value.message_type is not None:
                    getattr(message, field.name)[key].CopyFrom(self.message(value.message_type, depth + 1))
                else:
                    getattr(message, field.name)[key] = self._scalar(value)
        elif field.is_repeated:
            for _ in range(self._random.choice([1, 1, 2, 40])):
                if kind is not None:
                    getattr(message, field.name).add().CopyFrom(self.message(kind, depth + 1))
                else:
                    getattr(message, field.name).append(self._scalar(field))
        elif kind is not None:
            getattr(message, field.name).CopyFrom(self._submessage(kind, depth))
        else:
            setattr(message, field.name, self._scalar(field))

    def _submessage(self, kind: Descriptor, depth: int) -> protobuf_message.Message:
        if kind.full_name == struct_pb2.Struct.DESCRIPTOR.full_name:
            struct = struct_pb2.Struct()
            for _ in range(self._random.choice([1, 3])):
                values: list[Any] = [None, True, float("nan"), 1e300, -1, "x", [1, "a"], {"b": {"c": None}}]
                struct.update(
                    {self._random.choice(["dtype", "port", "max-model-len", *self._texts]): self._random.choice(values)}
                )
            return struct
        return self.message(kind, depth + 1)

    def _scalar(self, field: FieldDescriptor) -> Any:
        if field.enum_type is not None:
            return self._random.choice([value.number for value in field.enum_type.values] * 3 + [77, -1])
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            apt = self._apt.get(field.name, self._texts)
            text = self._random.choice(apt if self._random.random() < 0.8 else self._texts)
            return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self._random.choice([0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), 1e-300])
        return self._random.choice([number for number in self._integers if _fits(number, field)])

    def mutated(self, content: bytes) -> bytes:
        """The content with a few bytes changed, added or left out."""
        changed = bytearray(content)
        for _ in range(self._random.randint(1, 4)):
            at = self._random.randint(0, len(changed))
            kind = self._random.randrange(4)
            if kind == 0:
                del changed[at:]
            elif kind == 1:
                changed[at:at] = self._random.randbytes(self._random.randint(1, 8))
            elif kind == 2 and at < len(changed):
                changed[at] ^= 1 << self._random.randrange(8)
            else:
                del changed[at : at + self._random.randint(1, 8)]
        return bytes(changed)


def _fits(number: int, field: FieldDescriptor) -> bool:
    ranges = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31),
        FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63),
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64),
    }
    low, high = ranges[field.cpp_type]
    return low <= number < high


def malformed(error: grpc.aio.AioRpcError) -> str:
    """What is wrong with the form of a refusal. Empty: nothing is."""
    if error.code() not in _REFUSALS:
        return f"{error.code()}: {error.details()}"
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # typed for grpc's own calls; an AioRpcError has the same methods
    if status is None:
        return f"{error.code()} without details: {error.details()}"
    reason, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(reason)
        detail.Unpack(violations)
    if reason.domain != "broadsheet" or reason.reason not in set(Reason):
        return f"{error.code()} without a reason: {status}"
    if reason.reason == Reason.INVALID_FIELDS and not all(wrong.description for wrong in violations.field_violations):
        return f"a violation without description: {status}"
    if reason.reason == Reason.INVALID_FIELDS and not violations.field_violations:
        return f"INVALID_FIELDS without fields: {status}"
    return ""


class Fuzzer:
    """Sends requests to a control plane, and keeps what is wrong with its answers."""

    def __init__(self, channel: grpc.aio.Channel, requests: Requests) -> None:
        self._channel = channel
        self._requests = requests
        self.answers: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    async def run(self, count: int) -> None:
        """Send `count` requests."""
        methods = self._requests.methods()
        remaining = iter(range(count))

        async def worker() -> None:
            for _ in remaining:
                await self._ask(next(methods))

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))

    async def _ask(self, method: MethodDescriptor) -> None:
        content = self._requests.content(method)
        try:
            await self._call(method, content)
            self.answers["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.answers[error.code().name] += 1
            time_is_up = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED or error.details() == _UNSENT
            if method.name in _LASTING and time_is_up:
                return
            wrong = malformed(error)
            if wrong:
                self.wrong.append(f"{method.full_name} {content.hex()[:400]}: {wrong}")

    async def _call(self, method: MethodDescriptor, content: bytes) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        timeout = _STREAM_TIMEOUT_S if method.name in _LASTING else _CALL_TIMEOUT_S
        if not method.client_streaming:
            call: Callable[..., Awaitable[bytes]] = self._channel.unary_unary(path)
            await call(content, timeout=timeout)
            return
        more = self._requests.content(method)

        async def messages() -> Any:
            yield content
            yield more

        async for _ in self._channel.stream_stream(path)(messages(), timeout=timeout):
            pass


async def fuzz(url: str, directory: Path, *, count: int, seed: int) -> Fuzzer:
    """Send `count` requests to a control plane on the store at `url`."""
    adapter = write_adapter(directory / "fuzzed")
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(open_world(url, directory))
        await world.register_model("m")
        await world.register_adapter("m", "a", adapter)
        fleet = fleet_of(world.store, head=await world.store.head())
        fan_out = FanOut(fleet, now=lambda: START)
        world.store.commits.subscribe(fan_out.publish)
        server = Server(message_bytes_max=4 * 1024 * 1024, streams_max=1000, admit=everybody_is_admin)
        limits = Limits(heartbeat_s=0.2, hello_timeout_s=0.2, answer_timeout_s=0.5, silence_timeout_s=0.5)
        registry = Registry(store=world.store, adapter_verifier=world.verifier, resource_statuses=fleet.statuses)
        server.add(
            RegistryServicer(registry),
            SnapshotServicer(
                registry,
                sync_handler(fan_out, world.store, limits=limits, watch_s=0.1),
            ),
            FleetServicer(world.store, fleet),
        )
        address = await server.start("127.0.0.1:0")
        running = asyncio.create_task(fleet.writer.run())
        async with grpc.aio.insecure_channel(address) as channel:
            fuzzer = Fuzzer(channel, Requests(seed, adapter))
            await fuzzer.run(count)
        running.cancel()
        await server.stop(0)
        await world.check_digest(await world.revision())
    return fuzzer


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1_000_000)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    wrong: Sequence[str] = ()
    with tempfile.TemporaryDirectory() as scratch, running_server() as server:
        urls: dict[str, Callable[[], str]] = {
            "SQLite": lambda: f"sqlite+aiosqlite:///{scratch}/registry.db",
            "PostgreSQL": server.new_database,
        }
        for name, url in urls.items():
            directory = Path(scratch) / name
            directory.mkdir()
            began_s = time.monotonic()
            fuzzer = asyncio.run(fuzz(url(), directory, count=count // 2, seed=seed))
            counts = ", ".join(f"{number} {code}" for code, number in fuzzer.answers.most_common())
            sys.stdout.write(f"seed {seed}, {name}, {time.monotonic() - began_s:.0f} s: {counts}\n")
            wrong = [*wrong, *fuzzer.wrong]
    sys.stdout.write(f"{len(wrong)} answers are malformed\n" + "".join(f"  {answer}\n" for answer in wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
