"""Makes the content of an earlier snapshot the newest again, in one transaction.

Models, adapters and routes get new revisions with their old content, as RollbackModel makes them:
numbers never go back, so nothing that data planes or people remember by number changes its meaning.
API keys are left as they are, and so are rollout policies: they say how a model changes, not what
it is. Revisions that routes pin come and go with the routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf import message as protobuf_message

from broadsheet.v1 import snapshot_pb2
from controlplane import errors
from controlplane.catalog import convert, domain, registration, routes, warming
from controlplane.store.entries import Difference
from controlplane.store.transactions import WriteTransaction
from protocol import names

CHANGES_MAX = 10_000
"""Resources that one rollback may change. Every other change waits for its transaction: about half
a minute at most."""

M = TypeVar("M", bound=protobuf_message.Message)
R = TypeVar("R", domain.Model, domain.Adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Names to be gone, and contents to be in force; each of a kind, by name."""

    removed_models: Sequence[str]
    removed_adapters: Sequence[str]
    removed_routes: Sequence[str]
    models: Sequence[snapshot_pb2.ModelEntry]
    adapters: Sequence[snapshot_pb2.AdapterEntry]
    routes: Sequence[snapshot_pb2.RouteEntry]


def check_expected(expected_revision: int | None, head: domain.Head) -> None:
    """Refuse when the catalog is not what the caller has looked at.

    Raises:
        errors.Aborted: it has changed.
    """
    newest = head.position.revision
    if expected_revision is not None and expected_revision != newest:
        raise errors.Aborted(
            errors.Reason.CONCURRENT_CHANGE,
            f"expected_revision: got {expected_revision}, and the newest catalog revision is {newest}; look again",
            metadata={"expectedRevision": str(expected_revision), "newestRevision": str(newest)},
        )


async def roll_back(transaction: WriteTransaction, to_revision: int) -> int:
    """Make the content of `to_revision` that of the transaction; how many resources changed.

    Raises:
        errors.NotFound: there is no such revision, or it is not kept any more.
        errors.ResourceExhausted: it would change too many resources.
        errors.FailedPrecondition: a route pins a revision that does not exist any more.
    """
    differences = await transaction.entries.differences(
        transaction.head.position.revision, to_revision, after_name="", limit=CHANGES_MAX + 1
    )
    if len(differences) > CHANGES_MAX:
        raise errors.ResourceExhausted(
            errors.Reason.ROLLBACK_TOO_LARGE,
            f"revision {to_revision} differs in more than {CHANGES_MAX} resources; go back in smaller steps",
            metadata={"changesMax": str(CHANGES_MAX)},
        )
    await _check_pins(transaction, differences)
    plan = _plan(differences)
    # Names may change hands between resources, so all that change are freed before any is taken.
    await transaction.served_names.free_all([difference.name for difference in differences])
    changed = 0
    for name in plan.removed_routes:
        changed += await _remove_route(transaction, name)
    for model in plan.models:
        changed += await _put_model(transaction, model)
    for adapter in plan.adapters:
        changed += await _put_adapter(transaction, adapter)
    # What routes refer to is there before them, and goes after them.
    for route in plan.routes:
        changed += await _put_route(transaction, route)
    for name in plan.removed_adapters:
        await transaction.adapters.delete(*names.parse_adapter(name))
    for name in plan.removed_models:
        await transaction.models.delete(names.parse_model(name))
    return changed + len(plan.removed_adapters) + len(plan.removed_models)


def _plan(differences: Sequence[Difference]) -> _Plan:
    def removed(message: type[protobuf_message.Message]) -> list[str]:
        type_ = message.DESCRIPTOR.full_name
        return [item.name for item in differences if item.after is None and item.before and item.before.type == type_]

    def wanted(message: type[M]) -> list[M]:
        type_ = message.DESCRIPTOR.full_name
        return [message.FromString(item.after.blob) for item in differences if item.after and item.after.type == type_]

    return _Plan(
        removed_models=removed(snapshot_pb2.ModelEntry),
        removed_adapters=removed(snapshot_pb2.AdapterEntry),
        removed_routes=removed(snapshot_pb2.RouteEntry),
        models=wanted(snapshot_pb2.ModelEntry),
        adapters=wanted(snapshot_pb2.AdapterEntry),
        routes=wanted(snapshot_pb2.RouteEntry),
    )


async def _remove_route(transaction: WriteTransaction, name: str) -> bool:
    route = await transaction.routes.find(names.parse_route(name))
    assert route is not None, "an entry of the newest snapshot has its row"
    await transaction.routes.delete(route)
    return True


async def _put_model(transaction: WriteTransaction, entry: snapshot_pb2.ModelEntry) -> bool:
    model_id = names.parse_model(entry.name)
    found = await transaction.models.find_any(model_id)
    current = _alive(found, transaction.stamp)
    draft = registration.ModelDraft(
        id=model_id,
        served_name=entry.served_name,
        labels=dict(entry.labels),
        spec=entry.revision.spec,
        card=entry.revision.card,
        # What that snapshot was rolling out in steps had not taken over there.
        at_once=True,
    )
    model = registration.registered_model(current, draft, transaction.stamp)
    warm_until = convert.timestamp_from_proto(entry.warm_until) if entry.HasField("warm_until") else None
    model = warming.warmed(model, warm_until, transaction.stamp)
    await transaction.served_names.replace(model.name, model.served_name)
    if model is found:
        return False
    await transaction.models.put(model, found)
    return True


def _alive(found: R | None, stamp: domain.Stamp) -> R | None:
    """What is found, its deletion taken back if it was deleted."""
    return found if found is None or found.delete_time is None else registration.undeleted(found, stamp)


async def _put_adapter(transaction: WriteTransaction, entry: snapshot_pb2.AdapterEntry) -> bool:
    model_id, adapter_id = names.parse_adapter(entry.name)
    found = await transaction.adapters.find_any(model_id, adapter_id)
    current = _alive(found, transaction.stamp)
    draft = registration.AdapterDraft(
        model_id=model_id,
        id=adapter_id,
        served_name=entry.served_name,
        labels=dict(entry.labels),
        source=entry.revision.source,
        weights=entry.revision.weights,
        card=entry.revision.card,
    )
    adapter = registration.registered_adapter(current, draft, transaction.stamp)
    await transaction.served_names.replace(adapter.name, adapter.served_name)
    if adapter is found:
        return False
    await transaction.adapters.put(adapter, found)
    return True


async def _put_route(transaction: WriteTransaction, entry: snapshot_pb2.RouteEntry) -> bool:
    route_id = names.parse_route(entry.name)
    current = await transaction.routes.find(route_id)
    draft = routes.RouteDraft(
        id=route_id, served_name=entry.served_name, labels=dict(entry.labels), spec=entry.revision.spec
    )
    route = routes.set_route(current, draft, transaction.stamp)
    await transaction.served_names.replace(route.name, route.served_name)
    if route is current:
        return False
    await transaction.routes.put(route, current)
    return True


async def _check_pins(transaction: WriteTransaction, differences: Sequence[Difference]) -> None:
    """Refuse when a revision that is to be pinned again is gone: its model or adapter was deleted
    meanwhile.

    Raises:
        errors.FailedPrecondition: one is gone.
    """
    for item in differences:
        if item.after is None:
            continue
        if item.after.type == snapshot_pb2.ModelRevisionEntry.DESCRIPTOR.full_name:
            pinned = snapshot_pb2.ModelRevisionEntry.FromString(item.after.blob)
            model = await transaction.models.find(names.parse_model(pinned.model))
            is_there = (
                model is not None
                and model.uid == pinned.model_uid
                and await transaction.models.find_revision(model.id, pinned.revision.number) is not None
            )
        elif item.after.type == snapshot_pb2.AdapterRevisionEntry.DESCRIPTOR.full_name:
            entry = snapshot_pb2.AdapterRevisionEntry.FromString(item.after.blob)
            adapter = await transaction.adapters.find(*names.parse_adapter(entry.adapter))
            is_there = (
                adapter is not None
                and adapter.uid == entry.adapter_uid
                and await transaction.adapters.rank_of(names.parse_target(item.name)) is not None
            )
        else:
            continue
        if not is_there:
            raise errors.FailedPrecondition(
                errors.Reason.PINNED_REVISION_GONE,
                f"a route of that revision pins {item.name}, which is gone; go back to a revision without it",
                metadata={"resource": item.name},
            )
