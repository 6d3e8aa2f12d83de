"""The RPCs of adapters."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from broadsheet.v1 import adapter_pb2, model_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.catalog import convert, domain, etags, registration, spec
from controlplane.listing import filters, listing, masks, paging
from controlplane.rpc.handlers import consistency, idempotency
from controlplane.rpc.handlers.registry import Registry
from controlplane.store.resources import lists as store_lists
from controlplane.store.transactions import WriteTransaction
from protocol import names

_ALL_MODELS = "models/-"
"""The parent that stands for all models, as in AIP-159."""


@dataclass(frozen=True, slots=True)
class _Written:
    """An adapter after a change."""

    adapter: domain.Adapter
    catalog_revision: int
    """The first catalog revision whose snapshot surely holds it."""
    created: bool
    """Whether the change made an adapter revision."""


class AdapterHandler:
    """Registers, reads, changes and deletes adapters."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def register_adapter(self, request: pb.RegisterAdapterRequest) -> pb.RegisterAdapterResponse:
        # A repeat gets its answer even when the files or the base have gone since.
        first = await idempotency.first_answer(self._registry.store, request, pb.RegisterAdapterResponse)
        if first is not None:
            return first
        model_id = names.parse_model(request.parent)
        source = convert.known_fields(request.source)
        violations = tuple(spec.source_violations(source, "source"))
        if violations:
            raise errors.InvalidArgument.of_fields(violations)
        base, weights = await self._read_files(model_id, source)

        async def work(transaction: WriteTransaction) -> pb.RegisterAdapterResponse:
            model = await _unchanged_base(transaction, base, weights, "source.uri")
            draft = registration.AdapterDraft(
                model_id=model_id,
                id=request.adapter_id,
                served_name=request.served_name
                or registration.default_adapter_served_name(model.served_name, request.adapter_id),
                labels=dict(request.labels),
                source=source,
                weights=weights,
                card=convert.known_fields(request.card),
            )
            current = await transaction.adapters.find_any(model_id, request.adapter_id)
            registration.check_registrable(current, must_create=request.must_create)
            etags.check(request.etag, current)
            written = await _write(transaction, current, draft)
            return pb.RegisterAdapterResponse(
                adapter=convert.adapter_to_proto(written.adapter),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        name = names.adapter_name(model_id, request.adapter_id)
        return await idempotency.commit(self._registry.store, request, pb.RegisterAdapterResponse, work, resource=name)

    async def get_adapter(self, request: pb.GetAdapterRequest) -> pb.GetAdapterResponse:
        adapter = await self._registry.store.adapters.get_any(*names.parse_adapter(request.name))
        return pb.GetAdapterResponse(adapter=convert.adapter_to_proto(adapter, self._statuses(adapter)))

    async def list_adapters(self, request: pb.ListAdaptersRequest) -> pb.ListAdaptersResponse:
        model_id = None if request.parent == _ALL_MODELS else names.parse_model(request.parent)
        query = listing.ListQuery(
            wanted=filters.parse(request.filter, filters.ADAPTER_FIELDS),
            order=listing.parse_order(request.order_by),
            show_deleted=request.show_deleted,
        )

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.Adapter]:
            return await self._registry.store.adapters.list(model_id, query, after=cursor, limit=limit)

        def matches(adapter: domain.Adapter) -> bool:
            states = functools.partial(
                self._registry.resource_statuses.states_of, adapter.name, idle_since_revision=_idle_since(adapter)
            )
            return filters.matches(query.wanted, listing.adapter_values(adapter, states))

        page = await paging.page(
            request,
            read,
            key=functools.partial(store_lists.cursor_of, query.order),
            key_types=listing.cursor_types(query.order, listing.ADAPTER_NAME_PARTS),
            to_proto=lambda adapter: convert.adapter_to_proto(adapter, self._statuses(adapter)),
            matches=matches if request.filter else None,
            pause=functools.partial(asyncio.sleep, 0),
        )
        return pb.ListAdaptersResponse(adapters=page.items, next_page_token=page.next_page_token)

    async def list_adapter_revisions(self, request: pb.ListAdapterRevisionsRequest) -> pb.ListAdapterRevisionsResponse:
        model_id, adapter_id = names.parse_adapter(request.parent)

        async def read(before: int | None, limit: int) -> Sequence[domain.AdapterRevision]:
            return await self._registry.store.adapters.list_revisions(
                model_id, adapter_id, before_number=before, limit=limit
            )

        page = await paging.page_newest_first(
            request,
            read,
            key=lambda revision: revision.number,
            to_proto=lambda revision: convert.adapter_revision_to_proto(model_id, adapter_id, revision),
        )
        return pb.ListAdapterRevisionsResponse(revisions=page.items, next_page_token=page.next_page_token)

    async def update_adapter(self, request: pb.UpdateAdapterRequest) -> pb.UpdateAdapterResponse:
        given = convert.known_fields(request.adapter)
        paths = masks.update_paths(given, request.update_mask.paths, masks.ADAPTER_PATHS)
        model_id, adapter_id = names.parse_adapter(given.name)

        async def work(transaction: WriteTransaction) -> pb.UpdateAdapterResponse:
            current = await consistency.existing_adapter(transaction, model_id, adapter_id)
            etags.check(given.etag, current, "adapter.etag")
            merged = masks.updated(convert.adapter_to_proto(current), given, paths)
            model = await transaction.models.find(model_id)
            assert model is not None, "an adapter that is not deleted has a base that is not"
            masks.check_merged("adapter", merged)
            draft = registration.AdapterDraft(
                model_id=model_id,
                id=adapter_id,
                served_name=merged.served_name
                or registration.default_adapter_served_name(model.served_name, adapter_id),
                labels=dict(merged.labels),
                source=current.revision.source,
                weights=current.revision.weights,
                card=merged.revision.card,
            )
            written = await _write(transaction, current, draft)
            return pb.UpdateAdapterResponse(
                adapter=convert.adapter_to_proto(written.adapter),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        return await idempotency.commit(
            self._registry.store, request, pb.UpdateAdapterResponse, work, resource=given.name
        )

    async def rollback_adapter(self, request: pb.RollbackAdapterRequest) -> pb.RollbackAdapterResponse:
        first = await idempotency.first_answer(self._registry.store, request, pb.RollbackAdapterResponse)
        if first is not None:
            return first
        model_id, adapter_id = names.parse_adapter(request.name)
        earlier = await self._registry.store.adapters.get_revision(model_id, adapter_id, request.revision_number)
        base = await self._registry.store.models.get(model_id)
        registration.check_rank(base, earlier.weights.rank, "revision_number")
        # Read again: the files may have gone or changed, and the base may serve other ranks now.
        base, weights = await self._read_files(model_id, earlier.source)
        registration.check_same_files(request.name, earlier, weights)

        async def work(transaction: WriteTransaction) -> pb.RollbackAdapterResponse:
            current = await consistency.existing_adapter(transaction, model_id, adapter_id)
            etags.check(request.etag, current)
            await _unchanged_base(transaction, base, weights, "revision_number")
            draft = registration.AdapterDraft(
                model_id=model_id,
                id=adapter_id,
                served_name=current.served_name,
                labels=current.labels,
                source=earlier.source,
                weights=earlier.weights,
                card=earlier.card,
            )
            written = await _write(transaction, current, draft)
            return pb.RollbackAdapterResponse(
                adapter=convert.adapter_to_proto(written.adapter),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        return await idempotency.commit(
            self._registry.store, request, pb.RollbackAdapterResponse, work, resource=request.name
        )

    async def delete_adapter(self, request: pb.DeleteAdapterRequest) -> pb.DeleteAdapterResponse:
        model_id, adapter_id = names.parse_adapter(request.name)

        async def work(transaction: WriteTransaction) -> pb.DeleteAdapterResponse:
            current = await consistency.existing_adapter(transaction, model_id, adapter_id)
            etags.check(request.etag, current)
            await consistency.release_from_routes(transaction, model_id, adapter_id, force=request.force)
            await transaction.adapters.delete(model_id, adapter_id)
            return pb.DeleteAdapterResponse(
                adapter=convert.adapter_to_proto(registration.deleted(current, transaction.stamp)),
                catalog_revision=transaction.stamp.catalog_revision,
            )

        return await idempotency.commit(
            self._registry.store, request, pb.DeleteAdapterResponse, work, resource=request.name
        )

    async def undelete_adapter(self, request: pb.UndeleteAdapterRequest) -> pb.UndeleteAdapterResponse:
        model_id, adapter_id = names.parse_adapter(request.name)

        async def work(transaction: WriteTransaction) -> pb.UndeleteAdapterResponse:
            current = await transaction.adapters.find_any(model_id, adapter_id)
            if current is None:
                raise errors.adapter_not_found(request.name)
            etags.check(request.etag, current)
            adapter = registration.undeleted(current, transaction.stamp)
            base = registration.base_for_undelete(adapter, await transaction.models.find(model_id))
            registration.check_takes_adapter(base)
            registration.check_rank(base, adapter.revision.weights.rank, "name")
            await consistency.check_served_name(transaction, adapter.served_name, adapter.name)
            await transaction.adapters.put(adapter, current)
            return pb.UndeleteAdapterResponse(
                adapter=convert.adapter_to_proto(adapter), catalog_revision=transaction.stamp.catalog_revision
            )

        return await idempotency.commit(
            self._registry.store, request, pb.UndeleteAdapterResponse, work, resource=request.name
        )

    def _statuses(self, adapter: domain.Adapter) -> Sequence[convert.ReportedStatus]:
        return self._registry.resource_statuses.of(adapter.name, idle_since_revision=_idle_since(adapter))

    async def _read_files(
        self, model_id: str, source: model_pb2.Source
    ) -> tuple[domain.Model, adapter_pb2.AdapterWeights]:
        """Read an adapter's files and check them against its base. Returns that base too.

        Done before the transaction, which would last as long as reading gigabytes takes.
        """
        base = await self._registry.store.models.get(model_id)
        registration.check_takes_adapter(base)
        newest, *others = registration.bases_of_adapters(base)
        weights = await self._registry.adapter_verifier.verify(source, newest)
        for spec_of_stable in others:
            again = await self._registry.adapter_verifier.verify(source, spec_of_stable)
            if again != weights:
                message = f"the files at {source.uri} changed while they were read; try again"
                raise errors.Aborted(errors.Reason.ADAPTER_FILES_CHANGED, message)
        return base, weights


async def _unchanged_base(
    transaction: WriteTransaction, base: domain.Model, weights: adapter_pb2.AdapterWeights, field: str
) -> domain.Model:
    """The base as it is now, provided that the check of the files still holds.

    Args:
        transaction: That of the change.
        base: The base that the files were checked against.
        weights: The files.
        field: The path in the request that asks for them.

    Raises:
        errors.Aborted: The base has other weights now.
        errors.FailedPrecondition: The base serves no adapters any more.
        errors.InvalidArgument: The base does not serve this rank any more.
        errors.NotFound: The base was deleted.
    """
    model = registration.unchanged_base(base, await transaction.models.find(base.id))
    registration.check_takes_adapter(model)
    registration.check_rank(model, weights.rank, field)
    return model


async def _write(
    transaction: WriteTransaction, current: domain.Adapter | None, draft: registration.AdapterDraft
) -> _Written:
    """Write the adapter that `draft` states, unless nothing changes.

    Raises:
        errors.AlreadyExists: Another resource has the served name.
    """
    adapter = registration.registered_adapter(current, draft, transaction.stamp)
    changed = adapter is not current
    if changed:
        await consistency.check_served_name(transaction, adapter.served_name, adapter.name)
        await transaction.adapters.put(adapter, current)
    created = current is None or current.revision.number != adapter.revision.number
    return _Written(adapter, consistency.revision_with(transaction, changed=changed), created=created)


def _idle_since(adapter: domain.Adapter) -> int | None:
    """From which catalog revision on a data plane that reports nothing has the adapter IDLE."""
    return adapter.catalog_revision if adapter.delete_time is None else None
