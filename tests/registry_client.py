"""A client of the registry that records its answers."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from broadsheet.v1 import api_key_pb2, route_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors, principal
from tests import history
from tests.registry_calls import Caller
from tests.registry_model import calls, values
from tests.registry_world import NO_CONTEXT, World


class RecordingClient:
    """Calls the registry of a world, and records etags, writes and answers under request ids."""

    def __init__(self, directory: Path) -> None:
        """
        Args:
            directory: Has the adapters `lora0` and `lora1`.
        """
        self.etags: dict[values.Tag, str] = {}
        self.caller = Caller(self.etags, directory)
        self.ids = itertools.count(1)
        self.with_id: list[tuple[calls.Call, bytes]] = []
        """Each call that was carried out under a request id, and its first answer without a key."""
        self.writes: list[history.Write] = []
        self._began_s: dict[str, float] = {}

    async def outcome(self, world: World, call: calls.Call) -> calls.Outcome:
        try:
            return self.caller.answer(await self.send(world, call))
        except errors.DomainError as error:
            return calls.Refusal(type(error).__name__, error.reason)

    async def send(self, world: World, call: calls.Call) -> Any:
        value = call.request_id or f"call {next(self.ids)}"
        began_s = self._began_s.setdefault(value, time.monotonic())
        with principal.called_from(principal.Origin(address="", request_id=value)):
            message: Any = await self.caller.send(world, call)
        if call.validate_only:
            return message
        self._learn(message)
        if call.request_id in {recorded.request_id for recorded, _ in self.with_id}:
            return message
        if call.request_id:
            kept = type(message)()
            kept.CopyFrom(message)
            if "key" in message.DESCRIPTOR.fields_by_name:
                kept.ClearField("key")
            self.with_id.append((call, kept.SerializeToString(deterministic=True)))
        self.writes.append(
            history.Write(value=value, began_s=began_s, ended_s=time.monotonic(), revision=message.catalog_revision)
        )
        return message

    def _learn(self, message: Any) -> None:
        """Check that two etags are equal exactly when what they stand for is."""
        for field in ("model", "adapter"):
            if field in message.DESCRIPTOR.fields_by_name:
                resource = self.caller.resource(getattr(message, field))
                assert isinstance(resource, values.Model | values.Adapter)
                tag, etag = values.tag_of(resource), getattr(message, field).etag
                assert self.etags.setdefault(tag, etag) == etag
                assert [other for other, known in self.etags.items() if known == etag] == [tag]

    async def get(self, world: World, name: str) -> Any:
        handler: Any
        request: Any
        if name.startswith("routes/"):
            handler, request = world.registry.GetRoute, route_pb2.GetRouteRequest(name=name)
        elif name.startswith("apiKeys/"):
            handler, request = world.registry.GetApiKey, api_key_pb2.GetApiKeyRequest(name=name)
        elif "/adapters/" in name:
            handler, request = world.registry.GetAdapter, pb.GetAdapterRequest(name=name)
        else:
            handler, request = world.registry.GetModel, pb.GetModelRequest(name=name)
        message = await handler(request, NO_CONTEXT)
        self._learn(message)
        return self.caller.resource_in(message)
