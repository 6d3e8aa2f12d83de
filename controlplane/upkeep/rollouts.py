"""Advances rollouts: takes the next step, completes or reverts, as data planes report health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from controlplane import errors, principal
from controlplane.catalog import domain, rollout
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol import names

INTERVAL_S = 1.0
"""Between two checks. A step of a rollout lasts seconds at least."""

_ROLLOUTS = principal.Principal(name="rollouts", role="", authentication="none")
"""The author of these changes in the audit log."""

_log = structlog.get_logger("controlplane.upkeep.rollouts")

Observe = Callable[[str], Sequence[rollout.Observed]]
"""The state of a model revision, given by resource name, on each connected data plane that
votes."""


async def advance_for_ever(
    store: Store,
    observe: Observe,
    *,
    now: Callable[[], datetime],
    interval_s: float = INTERVAL_S,
) -> None:
    """Advance rollouts every `interval_s`, until cancelled.

    Each control plane on a database may do so: a step that two of them decide is taken once.
    """
    with principal.acting_as(_ROLLOUTS):
        while True:
            await asyncio.sleep(interval_s)
            try:
                await advance(store, observe, now=now())
            except errors.Unavailable as error:
                _log.warning("rollouts_not_advanced", error=str(error))


async def advance(store: Store, observe: Observe, *, now: datetime) -> None:
    """Check every rollout under way once, and make the moves that are due.

    Each move is a catalog revision of its own.

    Raises:
        errors.Unavailable: The database failed.
    """
    for model in await store.models.list_rollouts():
        decision = rollout.decide(model, observe(names.model_revision_name(model.id, model.revision.number)), now)
        if decision is not None:
            try:
                await move(store, model, decision)
            except errors.ResourceExhausted as error:
                # It is tried again. An operator makes room, or reverts it, which needs none.
                _log.error("rollout_not_moved", model=model.name, move=decision.move.name, error=error.message)


async def move(store: Store, decided_from: domain.Model, decision: rollout.Decision) -> None:
    """Carry out a decision, unless the rollout has changed since it was made.

    Args:
        store: Holds the model.
        decided_from: The model that the decision was made from.
        decision: The move, and its reason.

    Raises:
        errors.Unavailable: The database failed.
    """

    async def work(transaction: WriteTransaction) -> bool:
        current = await transaction.models.find(decided_from.id)
        # Another control plane or a user changed the model first, so the decision is out of date.
        if current is None or (current.uid, current.rollout) != (decided_from.uid, decided_from.rollout):
            return False
        await transaction.models.put(rollout.moved(current, decision, transaction.stamp), current)
        return True

    if await store.write(work, method="AdvanceRollout", resource=decided_from.name):
        _log.info(
            "rollout_moved",
            model=decided_from.name,
            move=decision.move.name,
            reason=decision.reason,
            message=decision.message,
        )
