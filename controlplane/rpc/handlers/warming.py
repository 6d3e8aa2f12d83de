"""The RPC that starts a model before the first request for it."""

from __future__ import annotations

from broadsheet.v1 import warming_pb2 as pb
from controlplane.catalog import convert, etags, warming
from controlplane.rpc.handlers import consistency, idempotency
from controlplane.rpc.handlers.registry import Registry
from controlplane.store.transactions import WriteTransaction
from protocol import names


class WarmingHandler:
    """Sets until when a model is kept started."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def warm_model(self, request: pb.WarmModelRequest) -> pb.WarmModelResponse:
        model_id = names.parse_model(request.name)
        duration = request.duration if request.HasField("duration") else None
        if duration is not None:
            warming.check_duration(duration)

        async def work(transaction: WriteTransaction) -> pb.WarmModelResponse:
            current = await consistency.existing_model(transaction, model_id)
            etags.check(request.etag, current)
            until = warming.end_of(duration, current, transaction.stamp.now)
            model = warming.warmed(current, until, transaction.stamp)
            changed = model is not current
            if changed:
                await transaction.models.put(model, current)
            return pb.WarmModelResponse(
                model=convert.model_to_proto(model),
                catalog_revision=consistency.revision_with(transaction, changed=changed),
            )

        return await idempotency.commit(
            self._registry.store, request, pb.WarmModelResponse, work, resource=request.name
        )
