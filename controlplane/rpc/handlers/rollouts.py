"""The RPC that pauses, resumes or aborts a rollout."""

from __future__ import annotations

from broadsheet.v1 import rollout_pb2 as pb
from controlplane.catalog import rollout
from controlplane.rpc.handlers import consistency, idempotency
from controlplane.rpc.handlers.registry import Registry
from controlplane.store.transactions import WriteTransaction
from protocol import names


class RolloutHandler:
    """Controls rollouts. `controlplane.upkeep.rollouts` advances them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def control_rollout(self, request: pb.ControlRolloutRequest) -> pb.ControlRolloutResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> pb.ControlRolloutResponse:
            current = await consistency.existing_model(transaction, model_id)
            model = rollout.controlled(current, request.action, transaction.stamp)
            await transaction.models.put(model, current)
            return pb.ControlRolloutResponse(rollout=model.rollout, catalog_revision=transaction.stamp.catalog_revision)

        return await idempotency.commit(
            self._registry.store, request, pb.ControlRolloutResponse, work, resource=request.name
        )
