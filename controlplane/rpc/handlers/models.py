"""The RPCs about models: thin around the core and the store.

Requests reach these methods checked by the rules in their protos (`interceptors.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from broadsheet.v1 import model_pb2, status_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.catalog import convert, domain, etags, registration, rollout, spec
from controlplane.listing import filters, listing, masks, paging
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.rpc.handlers.routes import release_from_routes
from controlplane.store.resources import lists as store_lists
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol import names

Context = grpc.aio.ServicerContext[Any, Any]


class ResourceStatuses(Protocol):
    """What each data plane has made of a resource; `hub.py` has it."""

    def __call__(
        self, name: str, *, idle_since_revision: int | None = None
    ) -> Sequence[status_pb2.DataPlaneResourceStatus]:
        """By data plane id. `idle_since_revision` is given for an adapter, whose idling data planes
        do not report."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What a change of a model came to."""

    model: domain.Model
    catalog_revision: int
    """The first catalog revision whose snapshot surely holds it."""
    created: bool
    """Whether a model revision was made."""


class ModelRpcs:
    """The part of RegistryService that is about models."""

    _store: Store
    _changes: Changes
    _resource_statuses: ResourceStatuses

    async def RegisterModel(self, request: pb.RegisterModelRequest, context: Context) -> pb.RegisterModelResponse:
        draft = registration.ModelDraft(
            id=request.model_id,
            served_name=request.served_name or request.model_id,
            labels=dict(request.labels),
            spec=spec.resolved(request.spec),
            card=convert.known_fields(request.card),
            rollout_policy=rollout.resolved(request.rollout_policy),
        )

        async def work(transaction: WriteTransaction) -> pb.RegisterModelResponse:
            current = await transaction.any_model(draft.id)
            registration.check_registrable(current, must_create=request.must_create)
            etags.check(request.etag, current)
            written = await _write(transaction, current, draft)
            return pb.RegisterModelResponse(
                model=convert.model_to_proto(written.model),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        resource = names.model_name(draft.id)
        return await self._changes.commit(request, pb.RegisterModelResponse, work, resource=resource)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        model = await self._store.get_any_model(names.parse_model(request.name))
        statuses = self._resource_statuses(request.name)
        return pb.GetModelResponse(model=convert.model_to_proto(model, statuses))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        asked = listing.ListQuery(
            wanted=filters.parse(request.filter, filters.MODEL_FIELDS),
            order=listing.parse_order(request.order_by),
            show_deleted=request.show_deleted,
        )

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.Model]:
            return await self._store.list_models(asked, after=cursor, limit=limit)

        def matches(model: domain.Model) -> bool:
            statuses = functools.partial(self._resource_statuses, model.name)
            return filters.matches(asked.wanted, listing.model_values(model, statuses))

        types = listing.cursor_types(asked.order, listing.MODEL_NAME_PARTS)
        models, following = await paging.read_page(
            read,
            functools.partial(store_lists.cursor_of, asked.order),
            lambda model: convert.model_to_proto(model, self._resource_statuses(model.name)),
            paging.cursor(request, request.page_token, *types),
            paging.page_size(request.page_size),
            matches if request.filter else None,
        )
        return pb.ListModelsResponse(
            models=models, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def ListModelRevisions(
        self, request: pb.ListModelRevisionsRequest, context: Context
    ) -> pb.ListModelRevisionsResponse:
        model_id = names.parse_model(request.parent)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.ModelRevision]:
            before_number = int(cursor[0]) if cursor is not None else None
            return await self._store.list_model_revisions(model_id, before_number=before_number, limit=limit)

        first = paging.cursor(request, request.page_token, int)
        revisions, following = await paging.read_page(
            read,
            lambda revision: (revision.number,),
            lambda revision: convert.model_revision_to_proto(model_id, revision),
            first,
            paging.page_size(request.page_size),
        )
        return pb.ListModelRevisionsResponse(
            revisions=revisions, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.UpdateModelResponse:
        given = convert.known_fields(request.model)
        paths = masks.update_paths(given, request.update_mask.paths, masks.MODEL_PATHS)
        model_id = names.parse_model(given.name)

        async def work(transaction: WriteTransaction) -> pb.UpdateModelResponse:
            current = await _live_model(transaction, model_id)
            etags.check(given.etag, current, "model.etag")
            merged = masks.updated(convert.model_to_proto(current), given, paths)
            masks.check_merged("model", merged)
            with masks.violations_below("model.revision"):
                resolved = spec.resolved(merged.revision.spec)
            draft = registration.ModelDraft(
                id=model_id,
                served_name=merged.served_name or model_id,
                labels=dict(merged.labels),
                spec=resolved,
                card=merged.revision.card,
                rollout_policy=rollout.resolved(merged.rollout_policy),
            )
            written = await _write(transaction, current, draft)
            return pb.UpdateModelResponse(
                model=convert.model_to_proto(written.model),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        return await self._changes.commit(request, pb.UpdateModelResponse, work, resource=given.name)

    async def RollbackModel(self, request: pb.RollbackModelRequest, context: Context) -> pb.RollbackModelResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> pb.RollbackModelResponse:
            current = await _live_model(transaction, model_id)
            etags.check(request.etag, current)
            earlier = await transaction.model_revision(model_id, request.revision_number)
            if earlier is None:
                raise errors.revision_of_resource_not_found(
                    request.name, request.revision_number, current.revision.number
                )
            # Checked anew: this release may refuse what an earlier one took.
            draft = registration.ModelDraft(
                id=model_id,
                served_name=current.served_name,
                labels=current.labels,
                spec=spec.resolved(earlier.spec),
                card=earlier.card,
                # Whoever goes back wants to be back, not on the way there.
                at_once=True,
            )
            written = await _write(transaction, current, draft)
            return pb.RollbackModelResponse(
                model=convert.model_to_proto(written.model),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        return await self._changes.commit(request, pb.RollbackModelResponse, work, resource=request.name)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> pb.DeleteModelResponse:
            current = await _live_model(transaction, model_id)
            etags.check(request.etag, current)
            if not request.force:
                adapters, count = await transaction.adapters_of(model_id)
                registration.check_deletable(current, tuple(name for name, _ in adapters), count)
            await release_from_routes(transaction, model_id, force=request.force)
            await transaction.delete_model(model_id)
            return pb.DeleteModelResponse(
                model=convert.model_to_proto(registration.deleted(current, transaction.stamp)),
                catalog_revision=transaction.stamp.catalog_revision,
            )

        return await self._changes.commit(request, pb.DeleteModelResponse, work, resource=request.name)

    async def UndeleteModel(self, request: pb.UndeleteModelRequest, context: Context) -> pb.UndeleteModelResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> pb.UndeleteModelResponse:
            current = await transaction.any_model(model_id)
            if current is None:
                raise errors.model_not_found(request.name)
            etags.check(request.etag, current)
            model = registration.undeleted(current, transaction.stamp)
            # All of it or nothing: a name that was taken meanwhile, also an adapter's, is for the
            # caller to free.
            await check_served_name(transaction, model.served_name, model.name)
            await transaction.put_model(model, current)
            adapters = await transaction.adapters_deleted_with(current)
            for adapter in adapters:
                await check_served_name(transaction, adapter.served_name, adapter.name)
                await transaction.put_adapter(registration.undeleted(adapter, transaction.stamp), adapter)
            return pb.UndeleteModelResponse(
                model=convert.model_to_proto(model),
                catalog_revision=transaction.stamp.catalog_revision,
                adapter_count=len(adapters),
            )

        return await self._changes.commit(request, pb.UndeleteModelResponse, work, resource=request.name)


async def check_served_name(transaction: WriteTransaction, served_name: str, resource: str) -> None:
    """Refuse a served name that somebody else has.

    Raises:
        errors.AlreadyExists: somebody has.
    """
    holder = await transaction.holder_of(served_name)
    if holder not in (None, resource):
        raise errors.served_name_taken(served_name, holder)


async def _live_model(transaction: WriteTransaction, model_id: str) -> domain.Model:
    current = await transaction.model(model_id)
    if current is None:
        raise errors.model_not_found(names.model_name(model_id))
    return current


async def _write(
    transaction: WriteTransaction, current: domain.Model | None, draft: registration.ModelDraft
) -> _Written:
    """Write the model as `draft` states it, with every check that needs to know what else is
    there."""
    model = registration.registered_model(current, draft, transaction.stamp)
    if model is current:
        return _Written(model, transaction.head.position.revision, created=False)
    await check_served_name(transaction, model.served_name, model.name)
    created = current is None or current.revision.number != model.revision.number
    if created and current is not None:
        await _check_adapters_fit(transaction, model.name, draft.id, model.revision.spec)
    await transaction.put_model(model, current)
    return _Written(model, transaction.stamp.catalog_revision, created=created)


async def _check_adapters_fit(
    transaction: WriteTransaction, name: str, model_id: str, new: model_pb2.ModelSpec
) -> None:
    rank_max = new.lora.max_rank if new.HasField("lora") else 0
    misfits, count = await transaction.adapters_of(model_id, rank_above=rank_max)
    spec.check_adapters_fit(new, name, misfits, count)
