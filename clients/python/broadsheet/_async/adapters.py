"""LoRA adapters: register, read, update, roll back, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from os import PathLike

from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._requests import fields
from broadsheet._requests.names import adapter_resource, model_resource
from broadsheet._requests.updates import update_adapter
from broadsheet.types import (
    Adapter,
    AdapterCard,
    AdapterRevision,
    DeleteAdapterResponse,
    RegisterAdapterResponse,
    RollbackAdapterResponse,
    Source,
    UndeleteAdapterResponse,
    UpdateAdapterResponse,
)
from broadsheet.v1 import registry_service_pb2 as pb


class AsyncAdapters(AsyncConnection):
    """The RPCs on adapters."""

    async def register_adapter(
        self,
        model: str,
        adapter_id: str,
        *,
        source: str | PathLike[str] | Source,
        card: AdapterCard | Mapping[str, object] | None = None,
        served_name: str = "",
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        must_create: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RegisterAdapterResponse:
        """Register a LoRA adapter of a model, or a new revision of it.

        The control plane checks the files. The same files and card again write nothing.

        Args:
            model: The base model.
            adapter_id: Last part of the resource name: 1 to 63 of `a-z 0-9 . -`.
            source: Directory with `adapter_config.json` and `adapter_model.safetensors`: a
                `file:///` URI, or a path that is the same on the control plane and data planes.
            card: Description for people.
            served_name: What callers put into OpenAI's `model` field. Default: `{served name of the
                base}:{adapter_id}`.
            labels: Free key-value pairs.
            etag: Etag of the adapter as read. The call fails if the adapter has changed since.
            must_create: Fail if the adapter exists.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidSpec: A relative `source` does not exist, or `card` has unknown fields; nothing
                was sent.
            InvalidArgument: A field breaks a rule, or the files do not fit the model.
            NotFound: There is no such model.
            AlreadyExists: The served name is taken; or `must_create` and the adapter exists or is
                deleted.
            Aborted: `etag` is stale.
            FailedPrecondition: The model takes no adapters, or none of this rank.
        """
        request = pb.RegisterAdapterRequest(
            parent=model_resource(model),
            adapter_id=adapter_id,
            served_name=served_name,
            source=fields.source(source),
            card=fields.message_or_none(card, AdapterCard(), "card"),
            labels=labels or {},
            etag=etag,
            must_create=must_create,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._registry.RegisterAdapter, request, timeout_s)

    async def get_adapter(self, adapter: str, *, timeout_s: float | None = None) -> Adapter:
        """Get an adapter with its state on every data plane.

        Raises:
            NotFound: There is no such adapter.
        """
        request = pb.GetAdapterRequest(name=adapter_resource(adapter))
        return (await self._call(self._registry.GetAdapter, request, timeout_s)).adapter

    async def list_adapters(
        self,
        model: str | None = None,
        *,
        filter: str = "",
        order_by: str = "",
        show_deleted: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Adapter]:
        """List the adapters of a model, or of all models, with their states.

        Args:
            model: The base model. None: all models.
            filter: Which adapters, such as `labels.team = search AND owner = ann`; see
                `ListAdaptersRequest.filter` in `registry_service.proto`. Default: all.
            order_by: Fields to sort by, such as `create_time desc`: `name`, `served_name`,
                `create_time`, `update_time`. Default: `name`.
            show_deleted: Include deleted adapters.
            timeout_s: Deadline of each page in seconds. None: that of the client.

        Raises:
            InvalidArgument: The filter or the order is invalid; the violation says what is allowed.
            NotFound: There is no such model.
        """
        request = pb.ListAdaptersRequest(
            parent="models/-" if model is None else model_resource(model),
            filter=filter,
            order_by=order_by,
            show_deleted=show_deleted,
        )
        async for page in self._pages(self._registry.ListAdapters, request, timeout_s):
            for adapter in page.adapters:
                yield adapter

    async def list_adapter_revisions(
        self, adapter: str, *, timeout_s: float | None = None
    ) -> AsyncIterator[AdapterRevision]:
        """List the revisions of an adapter, newest first.

        Raises:
            NotFound: There is no such adapter.
        """
        request = pb.ListAdapterRevisionsRequest(parent=adapter_resource(adapter))
        async for page in self._pages(self._registry.ListAdapterRevisions, request, timeout_s):
            for revision in page.revisions:
                yield revision

    async def update_adapter(
        self,
        adapter: str,
        *,
        served_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        card: AdapterCard | Mapping[str, object] | None = None,
        update_mask: Iterable[str] | None = None,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UpdateAdapterResponse:
        """Replace the given fields of an adapter and leave the others.

        Args:
            update_mask: Paths to change, such as `revision.card.description`: for a part of a given
                field, or to reset a field to its default. Default: the fields that are given.
            etag: Etag of the adapter as read. The call fails if the adapter has changed since.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule, or the mask names a field that cannot change.
            NotFound: There is no such adapter.
            AlreadyExists: The served name is taken.
            Aborted: `etag` is stale.
        """
        request = update_adapter(
            adapter, served_name=served_name, labels=labels, card=card, update_mask=update_mask, etag=etag
        )
        request.validate_only, request.request_id = validate_only, request_id
        return await self._call(self._registry.UpdateAdapter, request, timeout_s)

    async def rollback_adapter(
        self,
        adapter: str,
        revision_number: int,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RollbackAdapterResponse:
        """Make a new revision with the files and card of an earlier one.

        The served name and the labels stay as they are.

        Args:
            revision_number: Number of the earlier revision.
            etag: Etag of the adapter as read. The call fails if the adapter has changed since.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such adapter, or it has no such revision.
            FailedPrecondition: The files are no longer those of that revision.
            Aborted: `etag` is stale.
        """
        request = pb.RollbackAdapterRequest(
            name=adapter_resource(adapter),
            revision_number=revision_number,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._registry.RollbackAdapter, request, timeout_s)

    async def delete_adapter(
        self,
        adapter: str,
        *,
        force: bool = False,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> DeleteAdapterResponse:
        """Delete an adapter. It can be undeleted until its purge time.

        Args:
            force: Remove it from the routes that use it.
            etag: Etag of the adapter as read. The call fails if the adapter has changed since.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such adapter.
            FailedPrecondition: Routes use it and `force` is False, or a route would lose its last
                target.
            Aborted: `etag` is stale.
        """
        name = adapter_resource(adapter)
        request = pb.DeleteAdapterRequest(
            name=name, force=force, etag=etag, validate_only=validate_only, request_id=request_id
        )
        return await self._call(self._registry.DeleteAdapter, request, timeout_s)

    async def undelete_adapter(
        self,
        adapter: str,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UndeleteAdapterResponse:
        """Restore a deleted adapter.

        Args:
            etag: Etag of the adapter as read. The call fails if the adapter has changed since.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such adapter, or its purge time has passed.
            AlreadyExists: It is not deleted, or its served name is taken by now.
            Aborted: `etag` is stale.
        """
        name = adapter_resource(adapter)
        request = pb.UndeleteAdapterRequest(name=name, etag=etag, validate_only=validate_only, request_id=request_id)
        return await self._call(self._registry.UndeleteAdapter, request, timeout_s)
