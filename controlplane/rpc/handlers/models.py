"""The RPCs of models."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.catalog import convert, domain, etags, registration, rollout, spec
from controlplane.listing import filters, listing, masks, paging
from controlplane.rpc.handlers import consistency, idempotency
from controlplane.rpc.handlers.registry import Registry
from controlplane.store.resources import lists as store_lists
from controlplane.store.transactions import WriteTransaction
from protocol import names


@dataclass(frozen=True, slots=True)
class _Written:
    """A model after a change."""

    model: domain.Model
    catalog_revision: int
    """The first catalog revision whose snapshot surely holds it."""
    created: bool
    """Whether the change made a model revision."""


class ModelHandler:
    """Registers, reads, changes and deletes models."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def register_model(self, request: pb.RegisterModelRequest) -> pb.RegisterModelResponse:
        draft = registration.ModelDraft(
            id=request.model_id,
            served_name=request.served_name or request.model_id,
            labels=dict(request.labels),
            spec=spec.resolved(request.spec, self._registry.allowed_engine_args),
            card=convert.known_fields(request.card),
            rollout_policy=rollout.resolved(request.rollout_policy),
        )

        async def work(transaction: WriteTransaction) -> pb.RegisterModelResponse:
            current = await transaction.models.find_any(draft.id)
            registration.check_registrable(current, must_create=request.must_create)
            etags.check(request.etag, current)
            written = await _write(transaction, current, draft, "spec.lora")
            return pb.RegisterModelResponse(
                model=convert.model_to_proto(written.model),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        name = names.model_name(draft.id)
        return await idempotency.commit(self._registry.store, request, pb.RegisterModelResponse, work, resource=name)

    async def get_model(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        model = await self._registry.store.models.get_any(names.parse_model(request.name))
        statuses = self._registry.resource_statuses.of(request.name)
        return pb.GetModelResponse(model=convert.model_to_proto(model, statuses))

    async def list_models(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        query = listing.ListQuery(
            wanted=filters.parse(request.filter, filters.MODEL_FIELDS),
            order=listing.parse_order(request.order_by),
            show_deleted=request.show_deleted,
        )

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.Model]:
            return await self._registry.store.models.list(query, after=cursor, limit=limit)

        def matches(model: domain.Model) -> bool:
            states = functools.partial(self._registry.resource_statuses.states_of, model.name)
            return filters.matches(query.wanted, listing.model_values(model, states))

        page = await paging.page(
            request,
            read,
            key=functools.partial(store_lists.cursor_of, query.order),
            key_types=listing.cursor_types(query.order, listing.MODEL_NAME_PARTS),
            to_proto=lambda model: convert.model_to_proto(model, self._registry.resource_statuses.of(model.name)),
            matches=matches if request.filter else None,
            pause=functools.partial(asyncio.sleep, 0),
        )
        return pb.ListModelsResponse(models=page.items, next_page_token=page.next_page_token)

    async def list_model_revisions(self, request: pb.ListModelRevisionsRequest) -> pb.ListModelRevisionsResponse:
        model_id = names.parse_model(request.parent)

        async def read(before: int | None, limit: int) -> Sequence[domain.ModelRevision]:
            return await self._registry.store.models.list_revisions(model_id, before_number=before, limit=limit)

        page = await paging.page_newest_first(
            request,
            read,
            key=lambda revision: revision.number,
            to_proto=lambda revision: convert.model_revision_to_proto(model_id, revision),
        )
        return pb.ListModelRevisionsResponse(revisions=page.items, next_page_token=page.next_page_token)

    async def update_model(self, request: pb.UpdateModelRequest) -> pb.UpdateModelResponse:
        given = convert.known_fields(request.model)
        paths = masks.update_paths(given, request.update_mask.paths, masks.MODEL_PATHS)
        model_id = names.parse_model(given.name)

        async def work(transaction: WriteTransaction) -> pb.UpdateModelResponse:
            current = await consistency.existing_model(transaction, model_id)
            etags.check(given.etag, current, "model.etag")
            merged = masks.updated(convert.model_to_proto(current), given, paths)
            masks.check_merged("model", merged)
            with masks.violations_below("model.revision"):
                resolved = spec.resolved(merged.revision.spec, self._registry.allowed_engine_args)
            draft = registration.ModelDraft(
                id=model_id,
                served_name=merged.served_name or model_id,
                labels=dict(merged.labels),
                spec=resolved,
                card=merged.revision.card,
                rollout_policy=rollout.resolved(merged.rollout_policy),
            )
            written = await _write(transaction, current, draft, "model.revision.spec.lora")
            return pb.UpdateModelResponse(
                model=convert.model_to_proto(written.model),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        return await idempotency.commit(
            self._registry.store, request, pb.UpdateModelResponse, work, resource=given.name
        )

    async def rollback_model(self, request: pb.RollbackModelRequest) -> pb.RollbackModelResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> pb.RollbackModelResponse:
            current = await consistency.existing_model(transaction, model_id)
            etags.check(request.etag, current)
            earlier = await transaction.models.find_revision(model_id, request.revision_number)
            if earlier is None:
                raise errors.revision_of_resource_not_found(
                    request.name, request.revision_number, current.revision.number
                )
            draft = registration.ModelDraft(
                id=model_id,
                served_name=current.served_name,
                labels=current.labels,
                # Checked again: this release may refuse what an earlier one accepted.
                spec=spec.resolved(earlier.spec, self._registry.allowed_engine_args),
                card=earlier.card,
                # A rollback skips the canary: the operator wants the old revision now.
                at_once=True,
            )
            written = await _write(transaction, current, draft, "revision_number")
            return pb.RollbackModelResponse(
                model=convert.model_to_proto(written.model),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        return await idempotency.commit(
            self._registry.store, request, pb.RollbackModelResponse, work, resource=request.name
        )

    async def delete_model(self, request: pb.DeleteModelRequest) -> pb.DeleteModelResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> pb.DeleteModelResponse:
            current = await consistency.existing_model(transaction, model_id)
            etags.check(request.etag, current)
            if not request.force:
                adapters, count = await transaction.adapters.with_rank_above(model_id)
                registration.check_deletable(current, tuple(name for name, _ in adapters), count)
            await consistency.release_from_routes(transaction, model_id, force=request.force)
            await transaction.models.delete(model_id)
            return pb.DeleteModelResponse(
                model=convert.model_to_proto(registration.deleted(current, transaction.stamp)),
                catalog_revision=transaction.stamp.catalog_revision,
            )

        return await idempotency.commit(
            self._registry.store, request, pb.DeleteModelResponse, work, resource=request.name, is_large=request.force
        )

    async def undelete_model(self, request: pb.UndeleteModelRequest) -> pb.UndeleteModelResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> pb.UndeleteModelResponse:
            current = await transaction.models.find_any(model_id)
            if current is None:
                raise errors.model_not_found(request.name)
            etags.check(request.etag, current)
            # No data plane served it meanwhile, so the time of a canary's step starts again.
            model = rollout.restarted(registration.undeleted(current, transaction.stamp), transaction.stamp)
            # The model and its adapters come back together or not at all. If another resource has
            # taken one of their served names, the caller must free that name first.
            await consistency.check_served_name(transaction, model.served_name, model.name)
            await transaction.models.put(model, current)
            adapters = await transaction.adapters.deleted_with(current)
            for adapter in adapters:
                await consistency.check_served_name(transaction, adapter.served_name, adapter.name)
                await transaction.adapters.put(registration.undeleted(adapter, transaction.stamp), adapter)
            return pb.UndeleteModelResponse(
                model=convert.model_to_proto(model),
                catalog_revision=transaction.stamp.catalog_revision,
                adapter_count=len(adapters),
            )

        return await idempotency.commit(
            self._registry.store, request, pb.UndeleteModelResponse, work, resource=request.name, is_large=True
        )


async def _write(
    transaction: WriteTransaction, current: domain.Model | None, draft: registration.ModelDraft, field: str
) -> _Written:
    """Write the model that `draft` states, unless nothing changes.

    Args:
        transaction: That of the change.
        current: The model as it is. None: it is new.
        draft: The model as requested.
        field: The path in the request that asks for its `lora`.

    Raises:
        errors.AlreadyExists: Another resource has the served name.
        errors.FailedPrecondition: The new spec would not serve the model's adapters.
    """
    model = registration.registered_model(current, draft, transaction.stamp)
    changed = model is not current
    created = current is None or current.revision.number != model.revision.number
    if changed:
        await consistency.check_served_name(transaction, model.served_name, model.name)
        if created and current is not None:
            highest = model.revision.spec.lora.max_rank
            misfits, count = await transaction.adapters.served_with_rank_above(draft.id, highest)
            registration.check_adapters_fit(model.name, highest, misfits, count, field)
        await transaction.models.put(model, current)
    return _Written(model, consistency.revision_with(transaction, changed=changed), created=created)
