"""Short calls of the methods of models and adapters, for tests."""

from __future__ import annotations

from typing import Any

from google.protobuf import field_mask_pb2

from broadsheet.v1 import adapter_pb2, model_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from tests.registry_world import NO_CONTEXT, World


async def get_model(world: World, model_id: str = "m") -> model_pb2.Model:
    return (await world.registry.GetModel(pb.GetModelRequest(name=f"models/{model_id}"), NO_CONTEXT)).model


async def get_adapter(world: World, name: str = "models/m/adapters/a") -> adapter_pb2.Adapter:
    return (await world.registry.GetAdapter(pb.GetAdapterRequest(name=name), NO_CONTEXT)).adapter


async def update_model(world: World, *paths: str, etag: str = "", **fields: Any) -> pb.UpdateModelResponse:
    model = model_pb2.Model(name="models/m", etag=etag, **fields)
    request = pb.UpdateModelRequest(model=model, update_mask=field_mask_pb2.FieldMask(paths=paths))
    return await world.registry.UpdateModel(request, NO_CONTEXT)


async def update_adapter(world: World, *paths: str, etag: str = "", **fields: Any) -> pb.UpdateAdapterResponse:
    adapter = adapter_pb2.Adapter(name="models/m/adapters/a", etag=etag, **fields)
    request = pb.UpdateAdapterRequest(adapter=adapter, update_mask=field_mask_pb2.FieldMask(paths=paths))
    return await world.registry.UpdateAdapter(request, NO_CONTEXT)


async def rollback_model(world: World, number: int, **fields: Any) -> pb.RollbackModelResponse:
    request = pb.RollbackModelRequest(name="models/m", revision_number=number, **fields)
    return await world.registry.RollbackModel(request, NO_CONTEXT)


async def rollback_adapter(world: World, number: int, **fields: Any) -> pb.RollbackAdapterResponse:
    request = pb.RollbackAdapterRequest(name="models/m/adapters/a", revision_number=number, **fields)
    return await world.registry.RollbackAdapter(request, NO_CONTEXT)


async def undelete_model(world: World, **fields: Any) -> pb.UndeleteModelResponse:
    return await world.registry.UndeleteModel(pb.UndeleteModelRequest(name="models/m", **fields), NO_CONTEXT)


async def undelete_adapter(world: World, name: str = "models/m/adapters/a") -> pb.UndeleteAdapterResponse:
    return await world.registry.UndeleteAdapter(pb.UndeleteAdapterRequest(name=name), NO_CONTEXT)


async def list_models(world: World, **fields: Any) -> list[str]:
    answer = await world.registry.ListModels(pb.ListModelsRequest(**fields), NO_CONTEXT)
    return [model.name for model in answer.models]


async def entry_names(world: World) -> list[str]:
    return [entry.name for entry in await world.entries()]


def card(**fields: Any) -> model_pb2.ModelRevision:
    return model_pb2.ModelRevision(card=model_pb2.ModelCard(**fields))
