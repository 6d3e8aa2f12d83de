"""The RPCs about adapters: thin around the core and the store.

Requests reach these methods checked by the rules in their protos (`interceptors.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from broadsheet.v1 import adapter_pb2, model_pb2, status_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors
from controlplane.adapters.files import AdapterReader
from controlplane.catalog import convert, domain, etags, registration, spec
from controlplane.listing import filters, listing, masks, paging
from controlplane.rpc.handlers.idempotency import Changes
from controlplane.rpc.handlers.models import Context, ResourceStatuses, check_served_name
from controlplane.rpc.handlers.routes import release_from_routes
from controlplane.store.resources import lists as store_lists
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol import names

_ALL_MODELS = "models/-"
"""Parent of the adapters of all models."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What a change of an adapter came to."""

    adapter: domain.Adapter
    catalog_revision: int
    """The first catalog revision whose snapshot surely holds it."""
    created: bool
    """Whether an adapter revision was made."""


class AdapterRpcs:
    """The part of RegistryService that is about adapters."""

    _store: Store
    _changes: Changes
    _adapter_reader: AdapterReader
    _resource_statuses: ResourceStatuses

    async def RegisterAdapter(self, request: pb.RegisterAdapterRequest, context: Context) -> pb.RegisterAdapterResponse:
        # A repeat gets its answer even when the files, or the base, have gone meanwhile.
        first = await self._changes.first_answer(request, pb.RegisterAdapterResponse)
        if first is not None:
            return first
        model_id = names.parse_model(request.parent)
        source = convert.known_fields(request.source)
        violations = tuple(spec.source_violations(source, "source"))
        if violations:
            raise errors.InvalidArgument.of_fields(violations)
        base, weights = await self._read(model_id, source)
        name = names.adapter_name(model_id, request.adapter_id)

        async def work(transaction: WriteTransaction) -> pb.RegisterAdapterResponse:
            model = await _unchanged_base(transaction, base, weights)
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
            current = await transaction.any_adapter(model_id, request.adapter_id)
            registration.check_registrable(current, must_create=request.must_create)
            etags.check(request.etag, current)
            written = await _write(transaction, current, draft)
            return pb.RegisterAdapterResponse(
                adapter=convert.adapter_to_proto(written.adapter),
                catalog_revision=written.catalog_revision,
                created=written.created,
            )

        return await self._changes.commit(request, pb.RegisterAdapterResponse, work, resource=name)

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Context) -> pb.GetAdapterResponse:
        adapter = await self._store.get_any_adapter(*names.parse_adapter(request.name))
        return pb.GetAdapterResponse(adapter=convert.adapter_to_proto(adapter, self._statuses(adapter)))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        model_id = None if request.parent == _ALL_MODELS else names.parse_model(request.parent)
        asked = listing.ListQuery(
            wanted=filters.parse(request.filter, filters.ADAPTER_FIELDS),
            order=listing.parse_order(request.order_by),
            show_deleted=request.show_deleted,
        )

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.Adapter]:
            return await self._store.list_adapters(model_id, asked, after=cursor, limit=limit)

        def matches(adapter: domain.Adapter) -> bool:
            statuses = functools.partial(self._statuses, adapter)
            return filters.matches(asked.wanted, listing.adapter_values(adapter, statuses))

        types = listing.cursor_types(asked.order, listing.ADAPTER_NAME_PARTS)
        adapters, following = await paging.read_page(
            read,
            functools.partial(store_lists.cursor_of, asked.order),
            lambda adapter: convert.adapter_to_proto(adapter, self._statuses(adapter)),
            paging.cursor(request, request.page_token, *types),
            paging.page_size(request.page_size),
            matches if request.filter else None,
        )
        return pb.ListAdaptersResponse(
            adapters=adapters, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def ListAdapterRevisions(
        self, request: pb.ListAdapterRevisionsRequest, context: Context
    ) -> pb.ListAdapterRevisionsResponse:
        model_id, adapter_id = names.parse_adapter(request.parent)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.AdapterRevision]:
            before_number = int(cursor[0]) if cursor is not None else None
            return await self._store.list_adapter_revisions(
                model_id, adapter_id, before_number=before_number, limit=limit
            )

        first = paging.cursor(request, request.page_token, int)
        revisions, following = await paging.read_page(
            read,
            lambda revision: (revision.number,),
            lambda revision: convert.adapter_revision_to_proto(model_id, adapter_id, revision),
            first,
            paging.page_size(request.page_size),
        )
        return pb.ListAdapterRevisionsResponse(
            revisions=revisions, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def UpdateAdapter(self, request: pb.UpdateAdapterRequest, context: Context) -> pb.UpdateAdapterResponse:
        given = convert.known_fields(request.adapter)
        paths = masks.update_paths(given, request.update_mask.paths, masks.ADAPTER_PATHS)
        model_id, adapter_id = names.parse_adapter(given.name)

        async def work(transaction: WriteTransaction) -> pb.UpdateAdapterResponse:
            current = await _live_adapter(transaction, model_id, adapter_id)
            etags.check(given.etag, current, "adapter.etag")
            merged = masks.updated(convert.adapter_to_proto(current), given, paths)
            model = await transaction.model(model_id)
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

        return await self._changes.commit(request, pb.UpdateAdapterResponse, work, resource=given.name)

    async def RollbackAdapter(self, request: pb.RollbackAdapterRequest, context: Context) -> pb.RollbackAdapterResponse:
        first = await self._changes.first_answer(request, pb.RollbackAdapterResponse)
        if first is not None:
            return first
        model_id, adapter_id = names.parse_adapter(request.name)
        earlier = await self._store.get_adapter_revision(model_id, adapter_id, request.revision_number)
        # Read anew: the files may have gone or changed since, and the base may serve other ranks.
        base, weights = await self._read(model_id, earlier.source)
        registration.check_same_files(request.name, earlier, weights)

        async def work(transaction: WriteTransaction) -> pb.RollbackAdapterResponse:
            current = await _live_adapter(transaction, model_id, adapter_id)
            etags.check(request.etag, current)
            await _unchanged_base(transaction, base, weights)
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

        return await self._changes.commit(request, pb.RollbackAdapterResponse, work, resource=request.name)

    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        model_id, adapter_id = names.parse_adapter(request.name)

        async def work(transaction: WriteTransaction) -> pb.DeleteAdapterResponse:
            current = await _live_adapter(transaction, model_id, adapter_id)
            etags.check(request.etag, current)
            await release_from_routes(transaction, model_id, adapter_id, force=request.force)
            await transaction.delete_adapter(model_id, adapter_id)
            return pb.DeleteAdapterResponse(
                adapter=convert.adapter_to_proto(registration.deleted(current, transaction.stamp)),
                catalog_revision=transaction.stamp.catalog_revision,
            )

        return await self._changes.commit(request, pb.DeleteAdapterResponse, work, resource=request.name)

    async def UndeleteAdapter(self, request: pb.UndeleteAdapterRequest, context: Context) -> pb.UndeleteAdapterResponse:
        model_id, adapter_id = names.parse_adapter(request.name)

        async def work(transaction: WriteTransaction) -> pb.UndeleteAdapterResponse:
            current = await transaction.any_adapter(model_id, adapter_id)
            if current is None:
                raise errors.adapter_not_found(request.name)
            etags.check(request.etag, current)
            adapter = registration.undeleted(current, transaction.stamp)
            base = registration.base_for_undelete(adapter, await transaction.model(model_id))
            registration.check_takes_adapter(base)
            registration.check_rank(base, adapter.revision.weights.rank)
            await check_served_name(transaction, adapter.served_name, adapter.name)
            await transaction.put_adapter(adapter, current)
            return pb.UndeleteAdapterResponse(
                adapter=convert.adapter_to_proto(adapter), catalog_revision=transaction.stamp.catalog_revision
            )

        return await self._changes.commit(request, pb.UndeleteAdapterResponse, work, resource=request.name)

    def _statuses(self, adapter: domain.Adapter) -> Sequence[status_pb2.DataPlaneResourceStatus]:
        idle_since_revision = adapter.catalog_revision if adapter.delete_time is None else None
        return self._resource_statuses(adapter.name, idle_since_revision=idle_since_revision)

    async def _read(self, model_id: str, source: model_pb2.Source) -> tuple[domain.Model, adapter_pb2.AdapterWeights]:
        """Read and check an adapter's files, against the base as it is now; and that base.

        Reading gigabytes takes its time, so it is done before the transaction.
        """
        base = await self._store.get_model(model_id)
        registration.check_takes_adapter(base)
        base_spec = base.revision.spec
        base_source = base_spec.source if base_spec.HasField("source") else None
        return base, await self._adapter_reader.read(source, base_source, base_spec.lora.max_rank)


async def _unchanged_base(
    transaction: WriteTransaction, base: domain.Model, weights: adapter_pb2.AdapterWeights
) -> domain.Model:
    """The base as it is now, which takes the adapter and has the weights that it was compared
    with."""
    model = registration.unchanged_base(base, await transaction.model(base.id))
    registration.check_takes_adapter(model)
    registration.check_rank(model, weights.rank)
    return model


async def _live_adapter(transaction: WriteTransaction, model_id: str, adapter_id: str) -> domain.Adapter:
    current = await transaction.adapter(model_id, adapter_id)
    if current is None:
        raise errors.adapter_not_found(names.adapter_name(model_id, adapter_id))
    return current


async def _write(
    transaction: WriteTransaction, current: domain.Adapter | None, draft: registration.AdapterDraft
) -> _Written:
    """Write the adapter as `draft` states it."""
    adapter = registration.registered_adapter(current, draft, transaction.stamp)
    if adapter is current:
        return _Written(adapter, transaction.head.position.revision, created=False)
    await check_served_name(transaction, adapter.served_name, adapter.name)
    await transaction.put_adapter(adapter, current)
    created = current is None or current.revision.number != adapter.revision.number
    return _Written(adapter, transaction.stamp.catalog_revision, created=created)
