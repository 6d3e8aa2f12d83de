"""Checks of a change against the rest of the catalog, made inside its transaction.

They hold because catalog transactions are serialised: nothing changes between check and commit.
"""

from __future__ import annotations

from broadsheet.v1 import route_pb2
from controlplane import errors
from controlplane.catalog import domain, registration, routes
from controlplane.store.transactions import WriteTransaction
from protocol import names


async def existing_model(transaction: WriteTransaction, model_id: str) -> domain.Model:
    """The model as it is now.

    Raises:
        errors.NotFound: It does not exist, or is deleted.
    """
    model = await transaction.models.find(model_id)
    if model is None:
        raise errors.model_not_found(names.model_name(model_id))
    return model


async def existing_adapter(transaction: WriteTransaction, model_id: str, adapter_id: str) -> domain.Adapter:
    """The adapter as it is now.

    Raises:
        errors.NotFound: It does not exist, or is deleted.
    """
    adapter = await transaction.adapters.find(model_id, adapter_id)
    if adapter is None:
        raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
    return adapter


async def check_served_name(transaction: WriteTransaction, served_name: str, resource: str) -> None:
    """Refuse a served name that another model, adapter or route has.

    Args:
        transaction: That of the change.
        served_name: The name that the resource asks for.
        resource: Resource name of who asks; it may keep the name that it has.

    Raises:
        errors.AlreadyExists: The name is taken.
    """
    holder = await transaction.served_names.holder_of(served_name)
    if holder not in (None, resource):
        raise errors.served_name_taken(served_name, holder)


async def check_route_references(transaction: WriteTransaction, spec: route_pb2.RouteSpec) -> None:
    """Refuse a route to something that does not exist, or that its model could not serve.

    Raises:
        errors.InvalidArgument: There is such a reference.
    """
    fields = [
        *((f"spec.targets[{index}].resource", target.resource) for index, target in enumerate(spec.targets)),
        *((f"spec.fallbacks[{index}].resource", fallback.resource) for index, fallback in enumerate(spec.fallbacks)),
    ]
    missing = [(field, resource) for field, resource in fields if not await _exists(transaction, field, resource)]
    if missing:
        raise routes.missing_references(missing)


async def _exists(transaction: WriteTransaction, field: str, resource: str) -> bool:
    target = names.parse_target(resource)
    model = await transaction.models.find(target.model_id)
    if model is None:
        return False
    if target.adapter_id is None:
        return (
            target.number is None or await transaction.models.find_revision(target.model_id, target.number) is not None
        )
    rank = await transaction.adapters.rank_of(target)
    if rank is None:
        return False
    registration.check_rank(model, rank, field, f"got {resource!r}: it")
    return True


async def release_from_routes(
    transaction: WriteTransaction, model_id: str, adapter_id: str | None = None, *, force: bool
) -> None:
    """Take a model with its adapters, or one adapter, out of every route before it is deleted.

    Args:
        transaction: That of the deletion.
        model_id: The model that is deleted, or the base of the adapter.
        adapter_id: The adapter that is deleted. None: the model is.
        force: Change the routes. Without it, any route that refers to the resource is an error.

    Raises:
        errors.FailedPrecondition: Routes refer to the resource and `force` is not set, or a route
            would be left without a target.
    """
    resource = names.model_name(model_id) if adapter_id is None else names.adapter_name(model_id, adapter_id)
    referring = await transaction.routes.list_referring_to(model_id, adapter_id)
    if referring and not force:
        raise routes.still_referred_to(resource, [route.name for route in referring])
    changed = [(route, routes.without(route, resource, transaction.stamp)) for route in referring]
    empty = [route.name for route, after in changed if after is None]
    if empty:
        raise routes.would_be_empty(resource, empty)
    for route, after in changed:
        if after is not None:
            await transaction.routes.put(after, route)


def revision_with(transaction: WriteTransaction, *, changed: bool) -> int:
    """The first catalog revision whose snapshot surely holds the answer of this transaction.

    Args:
        transaction: That of the request.
        changed: Whether it changes anything. If not, the newest revision holds the answer already.
    """
    return transaction.stamp.catalog_revision if changed else transaction.head.position.revision
