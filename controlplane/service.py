"""RegistryService: thin around the core and the store.

Requests reach these methods checked by the rules in their protos (`interceptors.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf import message as protobuf_message

from controlplane import audit, convert, domain, errors, paging, registration, spec
from controlplane.adapter_files import AdapterReader
from controlplane.api_key_service import ApiKeyRpcs
from controlplane.changes import Changes
from controlplane.route_service import RouteRpcs, release_from_routes
from controlplane.store import Store
from controlplane.store_write import WriteTransaction
from modelplane import names
from modelplane.v1 import audit_pb2, registry_service_pb2, registry_service_pb2_grpc, status_pb2

_ALL_MODELS = "models/-"
"""Parent of the adapters of all models."""

M = TypeVar("M", bound=protobuf_message.Message)

Context = grpc.aio.ServicerContext[Any, Any]


class ResourceStatuses(Protocol):
    """What each data plane has made of a resource; `hub.py` has it."""

    def __call__(
        self, name: str, *, idle_since_revision: int | None = None
    ) -> Sequence[status_pb2.DataPlaneResourceStatus]:
        """By data plane id. `idle_since_revision` is given for an adapter, whose idling data planes do not report."""


class RegistryServicer(RouteRpcs, ApiKeyRpcs, registry_service_pb2_grpc.RegistryServiceServicer):
    """The registry of models, adapters, routes and API keys."""

    def __init__(
        self,
        store: Store,
        adapter_reader: AdapterReader,
        *,
        on_commit: Callable[[domain.Head], None],
        resource_statuses: ResourceStatuses,
    ) -> None:
        """
        Args:
            store: Where everything is kept.
            adapter_reader: Reads the files of adapters.
            on_commit: Told of each new head, in commit order, once it is durable.
            resource_statuses: What each data plane has made of a resource, by resource name.
        """
        self._store = store
        self._adapter_reader = adapter_reader
        self._changes = Changes(store, on_commit=on_commit)
        self._resource_statuses = resource_statuses

    # --- models ---

    async def RegisterModel(
        self, request: registry_service_pb2.RegisterModelRequest, context: Context
    ) -> registry_service_pb2.RegisterModelResponse:
        draft = registration.ModelDraft(
            id=request.model_id,
            served_name=request.served_name or request.model_id,
            labels=dict(request.labels),
            spec=spec.resolved(request.spec),
            card=_known_fields(request.card),
        )
        name = names.model_name(draft.id)

        async def work(transaction: WriteTransaction) -> registry_service_pb2.RegisterModelResponse:
            current = await transaction.model(draft.id)
            model = registration.registered_model(current, draft, transaction.stamp)
            answer = registry_service_pb2.RegisterModelResponse(model=convert.model_to_proto(model))
            if model is current:
                answer.catalog_revision = transaction.head.position.revision
                return answer
            await _check_served_name(transaction, draft.served_name, name)
            answer.catalog_revision = transaction.stamp.catalog_revision
            answer.created = current is None or current.revision.number != model.revision.number
            if answer.created and current is not None:
                rank_max = draft.spec.lora.max_rank if draft.spec.HasField("lora") else 0
                misfits, count = await transaction.adapters_of(draft.id, rank_above=rank_max)
                spec.check_adapters_fit(draft.spec, name, misfits, count)
            await transaction.put_model(model, current)
            return answer

        return await self._changes.commit(request, registry_service_pb2.RegisterModelResponse, work, resource=name)

    async def GetModel(
        self, request: registry_service_pb2.GetModelRequest, context: Context
    ) -> registry_service_pb2.GetModelResponse:
        model = await self._store.get_model(names.parse_model(request.name))
        statuses = self._resource_statuses(request.name)
        return registry_service_pb2.GetModelResponse(model=convert.model_to_proto(model, statuses))

    async def ListModels(
        self, request: registry_service_pb2.ListModelsRequest, context: Context
    ) -> registry_service_pb2.ListModelsResponse:
        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.Model]:
            return await self._store.list_models(after_id=str(cursor[0]) if cursor is not None else "", limit=limit)

        first = paging.cursor(request, request.page_token, str)
        models, following = await paging.read_page(
            read, lambda model: (model.id,), convert.model_to_proto, first, paging.page_size(request.page_size)
        )
        return registry_service_pb2.ListModelsResponse(
            models=models, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def ListModelRevisions(
        self, request: registry_service_pb2.ListModelRevisionsRequest, context: Context
    ) -> registry_service_pb2.ListModelRevisionsResponse:
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
        return registry_service_pb2.ListModelRevisionsResponse(
            revisions=revisions, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def DeleteModel(
        self, request: registry_service_pb2.DeleteModelRequest, context: Context
    ) -> registry_service_pb2.DeleteModelResponse:
        model_id = names.parse_model(request.name)

        async def work(transaction: WriteTransaction) -> registry_service_pb2.DeleteModelResponse:
            model = await transaction.model(model_id)
            if model is None:
                raise errors.model_not_found(request.name)
            if not request.force:
                adapters, count = await transaction.adapters_of(model_id)
                registration.check_deletable(model, tuple(name for name, _ in adapters), count)
            await release_from_routes(transaction, model_id, force=request.force)
            await transaction.delete_model(model_id)
            return registry_service_pb2.DeleteModelResponse(catalog_revision=transaction.stamp.catalog_revision)

        return await self._changes.commit(
            request, registry_service_pb2.DeleteModelResponse, work, resource=request.name
        )

    # --- adapters ---

    async def RegisterAdapter(
        self, request: registry_service_pb2.RegisterAdapterRequest, context: Context
    ) -> registry_service_pb2.RegisterAdapterResponse:
        # A repeat gets its answer even when the files, or the base, have gone meanwhile.
        first = await self._changes.first_answer(request, registry_service_pb2.RegisterAdapterResponse)
        if first is not None:
            return first
        model_id = names.parse_model(request.parent)
        source = _known_fields(request.source)
        violations = tuple(spec.source_violations(source, "source"))
        if violations:
            raise errors.InvalidArgument.of_fields(violations)
        # Reading gigabytes takes its time, so it is done before the transaction, against the base as it is now.
        base = await self._store.get_model(model_id)
        registration.check_takes_adapter(base)
        base_spec = base.revision.spec
        weights = await self._adapter_reader.read(
            source, base_spec.source if base_spec.HasField("source") else None, base_spec.lora.max_rank
        )
        name = names.adapter_name(model_id, request.adapter_id)

        async def work(transaction: WriteTransaction) -> registry_service_pb2.RegisterAdapterResponse:
            model = registration.unchanged_base(base, await transaction.model(model_id))
            registration.check_takes_adapter(model)
            registration.check_rank(model, weights.rank)
            draft = registration.AdapterDraft(
                model_id=model_id,
                id=request.adapter_id,
                served_name=request.served_name
                or registration.default_adapter_served_name(model.served_name, request.adapter_id),
                labels=dict(request.labels),
                source=source,
                weights=weights,
                card=_known_fields(request.card),
            )
            current = await transaction.adapter(model_id, request.adapter_id)
            adapter = registration.registered_adapter(current, draft, transaction.stamp)
            answer = registry_service_pb2.RegisterAdapterResponse(adapter=convert.adapter_to_proto(adapter))
            if adapter is current:
                answer.catalog_revision = transaction.head.position.revision
                return answer
            await _check_served_name(transaction, draft.served_name, name)
            await transaction.put_adapter(adapter, current)
            answer.catalog_revision = transaction.stamp.catalog_revision
            answer.created = current is None or current.revision.number != adapter.revision.number
            return answer

        return await self._changes.commit(request, registry_service_pb2.RegisterAdapterResponse, work, resource=name)

    async def GetAdapter(
        self, request: registry_service_pb2.GetAdapterRequest, context: Context
    ) -> registry_service_pb2.GetAdapterResponse:
        adapter = await self._store.get_adapter(*names.parse_adapter(request.name))
        statuses = self._resource_statuses(request.name, idle_since_revision=adapter.catalog_revision)
        return registry_service_pb2.GetAdapterResponse(adapter=convert.adapter_to_proto(adapter, statuses))

    async def ListAdapters(
        self, request: registry_service_pb2.ListAdaptersRequest, context: Context
    ) -> registry_service_pb2.ListAdaptersResponse:
        model_id = None if request.parent == _ALL_MODELS else names.parse_model(request.parent)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[domain.Adapter]:
            after = (str(cursor[0]), str(cursor[1])) if cursor is not None else ("", "")
            return await self._store.list_adapters(model_id, after=after, limit=limit)

        first = paging.cursor(request, request.page_token, str, str)
        adapters, following = await paging.read_page(
            read,
            lambda adapter: (adapter.model_id, adapter.id),
            convert.adapter_to_proto,
            first,
            paging.page_size(request.page_size),
        )
        return registry_service_pb2.ListAdaptersResponse(
            adapters=adapters, next_page_token=paging.token(request, following) if following is not None else ""
        )

    async def DeleteAdapter(
        self, request: registry_service_pb2.DeleteAdapterRequest, context: Context
    ) -> registry_service_pb2.DeleteAdapterResponse:
        model_id, adapter_id = names.parse_adapter(request.name)

        async def work(transaction: WriteTransaction) -> registry_service_pb2.DeleteAdapterResponse:
            if await transaction.adapter(model_id, adapter_id) is None:
                raise errors.adapter_not_found(request.name)
            await release_from_routes(transaction, model_id, adapter_id, force=request.force)
            await transaction.delete_adapter(model_id, adapter_id)
            return registry_service_pb2.DeleteAdapterResponse(catalog_revision=transaction.stamp.catalog_revision)

        return await self._changes.commit(
            request, registry_service_pb2.DeleteAdapterResponse, work, resource=request.name
        )

    # --- audit ---

    async def ListAuditEvents(
        self, request: audit_pb2.ListAuditEventsRequest, context: Context
    ) -> audit_pb2.ListAuditEventsResponse:
        matching = audit.filter_from_proto(request)

        async def read(cursor: paging.Cursor | None, limit: int) -> Sequence[audit.AuditEvent]:
            before_revision = int(cursor[0]) if cursor is not None else None
            return await self._store.list_audit_events(matching, before_revision=before_revision, limit=limit)

        first = paging.cursor(request, request.page_token, int)
        events, following = await paging.read_page(
            read,
            lambda event: (event.catalog_revision,),
            audit.event_to_proto,
            first,
            paging.page_size(request.page_size),
        )
        return audit_pb2.ListAuditEventsResponse(
            events=events, next_page_token=paging.token(request, following) if following is not None else ""
        )


async def _check_served_name(transaction: WriteTransaction, served_name: str, resource: str) -> None:
    holder = await transaction.holder_of(served_name)
    if holder not in (None, resource):
        raise errors.served_name_taken(served_name, holder)


def _known_fields(message: M) -> M:
    # A newer client may know fields that this release does not. They would be stored, and mean nothing.
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known
