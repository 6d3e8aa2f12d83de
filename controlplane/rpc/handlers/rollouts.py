"""The RPC that steers a rollout, and the task that carries rollouts on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import grpc
import structlog

from broadsheet.v1 import rollout_pb2
from controlplane import errors, principal
from controlplane.catalog import domain, rollout
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol import names

INTERVAL_S = 1.0
"""How often rollouts are looked at. A step lasts seconds at least."""

_ROLLOUTS = principal.Principal(name="rollouts", role="", authentication="none")
"""Who the audit log says it was."""

_log = structlog.get_logger("controlplane.rollouts")

Context = grpc.aio.ServicerContext[Any, Any]

Observe = Callable[[str], Sequence[rollout.Observed]]
"""What each connected data plane has made of a model revision, by its resource name."""


class RolloutRpcs:
    """The part of RegistryService that is about rollouts."""

    _changes: Changes

    async def ControlRollout(
        self, request: rollout_pb2.ControlRolloutRequest, context: Context
    ) -> rollout_pb2.ControlRolloutResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> rollout_pb2.ControlRolloutResponse:
            current = await transaction.model(model_id)
            if current is None:
                raise errors.model_not_found(request.name)
            model = rollout.controlled(current, request.action, transaction.stamp)
            await transaction.put_model(model, current)
            return rollout_pb2.ControlRolloutResponse(
                rollout=model.rollout, catalog_revision=transaction.stamp.catalog_revision
            )

        return await self._changes.commit(request, rollout_pb2.ControlRolloutResponse, work, resource=request.name)


async def run(
    store: Store,
    observe: Observe,
    *,
    now: Callable[[], datetime],
    interval_s: float = INTERVAL_S,
) -> None:
    """Carry rollouts on, for ever. Each control plane of a store may do so: a step is taken by the
    first one only."""
    with principal.acting_as(_ROLLOUTS):
        while True:
            await asyncio.sleep(interval_s)
            try:
                await carry_on(store, observe, now=now())
            except errors.Unavailable as error:
                _log.warning("rollouts_wait", error=str(error))


async def carry_on(store: Store, observe: Observe, *, now: datetime) -> None:
    """Look at every rollout under way once, and make the moves that are due, each a catalog
    revision.

    Raises:
        errors.Unavailable: the database failed.
    """
    for model in await store.list_rollouts():
        decision = rollout.decide(model, observe(names.model_revision_name(model.id, model.revision.number)), now)
        if decision is not None:
            await _move(store, model, decision)


async def _move(store: Store, decided_from: domain.Model, decision: rollout.Decision) -> None:
    async def work(transaction: WriteTransaction) -> bool:
        current = await transaction.model(decided_from.id)
        # Another control plane, or a person, was faster: what was decided is about a state that is
        # no more.
        if current is None or (current.uid, current.rollout) != (decided_from.uid, decided_from.rollout):
            return False
        await transaction.put_model(rollout.moved(current, decision, transaction.stamp), current)
        return True

    if await store.write(work, method="AdvanceRollout", resource=decided_from.name):
        _log.info(
            "rollout_moved",
            model=decided_from.name,
            move=decision.move.name,
            reason=decision.reason,
            message=decision.message,
        )
