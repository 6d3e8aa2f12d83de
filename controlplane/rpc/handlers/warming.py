"""The RPC that has data planes start a model before it is asked for."""

from __future__ import annotations

from typing import Any

import grpc

from broadsheet.v1 import warming_pb2
from controlplane import errors
from controlplane.catalog import convert, etags, warming
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.store.transactions import WriteTransaction
from protocol import names

Context = grpc.aio.ServicerContext[Any, Any]


class WarmingRpcs:
    """The part of RegistryService that is about warming."""

    _changes: Changes

    async def WarmModel(self, request: warming_pb2.WarmModelRequest, context: Context) -> warming_pb2.WarmModelResponse:
        model_id = names.parse_model(request.name)
        duration = request.duration if request.HasField("duration") else None
        if duration is not None:
            warming.check_duration(duration)

        async def work(transaction: WriteTransaction) -> warming_pb2.WarmModelResponse:
            current = await transaction.model(model_id)
            if current is None:
                raise errors.model_not_found(request.name)
            etags.check(request.etag, current)
            until = warming.end_of(duration, current, transaction.stamp.now)
            model = warming.warmed(current, until, transaction.stamp)
            if model is current:
                revision = transaction.head.position.revision
            else:
                await transaction.put_model(model, current)
                revision = transaction.stamp.catalog_revision
            return warming_pb2.WarmModelResponse(model=convert.model_to_proto(model), catalog_revision=revision)

        return await self._changes.commit(request, warming_pb2.WarmModelResponse, work, resource=request.name)
