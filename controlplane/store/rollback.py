"""RollbackCatalog: makes the content of an earlier snapshot the newest again, in one transaction.

Models, adapters and routes get new revisions with their old content, as with RollbackModel. Numbers
never go back, so a revision number never changes its meaning. API keys stay as they are, and so do
rollout policies, which say how a model changes and not what it is. The entries of pinned revisions
come and go with the routes that pin them.
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
"""Resources that one rollback may change. All other changes wait for its transaction, about half a
minute at most."""

M = TypeVar("M", bound=protobuf_message.Message)
R = TypeVar("R", domain.Model, domain.Adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Resources to delete, and contents to restore, each by kind and in the order of names."""

    removed_models: Sequence[str]
    removed_adapters: Sequence[str]
    removed_routes: Sequence[str]
    models: Sequence[snapshot_pb2.ModelEntry]
    adapters: Sequence[snapshot_pb2.AdapterEntry]
    routes: Sequence[snapshot_pb2.RouteEntry]


def check_expected(expected_revision: int | None, head: domain.Head) -> None:
    """Refuse when the catalog has changed since the caller looked at it.

    Args:
        expected_revision: The revision that the caller has seen. None: any will do.
        head: The newest snapshot.

    Raises:
        errors.Aborted: It has changed.
    """
    newest = head.position.revision
    if expected_revision is not None and expected_revision != newest:
        raise errors.Aborted(
            errors.Reason.CONCURRENT_CHANGE,
            f"expected_revision: got {expected_revision}, and the newest catalog revision is {newest}; look again",
            metadata={"expectedRevision": str(expected_revision), "newestRevision": str(newest)},
        )


async def roll_back(transaction: WriteTransaction, to_revision: int) -> int:
    """Restore the content of `to_revision` in `transaction`. Returns how many resources changed.

    Raises:
        errors.NotFound: There is no such revision, or it is not kept any more.
        errors.ResourceExhausted: It would change too many resources.
        errors.FailedPrecondition: A route pins a revision that does not exist any more, or a model
            would not serve the rank of an adapter or of a pinned revision.
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
    # A served name may pass from one resource to another, so all of them are freed first.
    await transaction.served_names.free_all([difference.name for difference in differences])
    changed = 0
    for name in plan.removed_routes:
        changed += await _remove_route(transaction, name)
    for model in plan.models:
        changed += await _put_model(transaction, model)
    for adapter in plan.adapters:
        changed += await _put_adapter(transaction, adapter)
    # Targets are created before the routes that refer to them, and deleted after them.
    for route in plan.routes:
        changed += await _put_route(transaction, route)
    for name in plan.removed_adapters:
        await transaction.adapters.delete(*names.parse_adapter(name))
    for name in plan.removed_models:
        await transaction.models.delete(names.parse_model(name))
    await _check_ranks(transaction, differences)
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
        # The entry has the stable revision. A rollout that was under way is not repeated.
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
    """The resource, undeleted if it was deleted."""
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


async def _check_ranks(transaction: WriteTransaction, differences: Sequence[Difference]) -> None:
    """Refuse when a restored model would not serve the rank of what is restored with it.

    A snapshot has no such rank, unless an earlier release has let it in.

    Raises:
        errors.FailedPrecondition: One has a higher rank.
    """
    restored = {
        names.parse_target(item.name).model_id
        for item in differences
        if item.after is not None and item.name.startswith("models/")
    }
    for model_id in sorted(restored):
        model = await transaction.models.find(model_id)
        assert model is not None, "what is restored has its model"
        highest = registration.rank_max(model)
        misfits, count = await transaction.adapters.served_with_rank_above(model_id, highest)
        registration.check_adapters_fit(model.name, highest, misfits, count, "to_revision")


async def _check_pins(transaction: WriteTransaction, differences: Sequence[Difference]) -> None:
    """Refuse when a revision to pin again is gone, because its model or adapter was deleted.

    Raises:
        errors.FailedPrecondition: One is gone.
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
