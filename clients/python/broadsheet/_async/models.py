"""Models: register, read, update, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from broadsheet import specs
from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._requests.fields import message_or_none
from broadsheet._requests.names import model_resource
from broadsheet._requests.updates import update_model
from broadsheet.types import (
    Admission,
    DeleteModelResponse,
    Model,
    ModelCard,
    ModelRevision,
    ModelSpec,
    RegisterModelResponse,
    RolloutPolicy,
    Scaling,
    UndeleteModelResponse,
    UpdateModelResponse,
)
from broadsheet.v1 import registry_service_pb2 as pb


class AsyncModels(AsyncConnection):
    """The RPCs on models."""

    async def register_model(
        self,
        model_id: str,
        *,
        spec: ModelSpec | Mapping[str, object],
        card: ModelCard | Mapping[str, object] | None = None,
        served_name: str = "",
        rollout_policy: RolloutPolicy | Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        must_create: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RegisterModelResponse:
        """Register a model, or a new revision of it. An omitted argument gets its default.

        The same spec and card again write nothing: the response has the existing revision and
        `created` False. The same holds after an attempt that succeeded but lost its response.

        Args:
            model_id: Last part of the resource name: 1 to 63 of `a-z 0-9 . -`.
            spec: How to run it: a message, or a mapping with the fields of a YAML spec
                (`broadsheet.specs`).
            card: Description for people.
            served_name: What callers put into OpenAI's `model` field. Default: `model_id`.
            rollout_policy: How a changed spec replaces the old one. Default: at once.
            labels: Free key-value pairs.
            etag: Etag of the model as read. The call fails if the model has changed since.
            must_create: Fail if the model exists.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule.
            AlreadyExists: The served name is taken; or `must_create` and the model exists or is
                deleted.
            Aborted: `etag` is stale.
            FailedPrecondition: An adapter of the model does not fit the new spec.
        """
        request = pb.RegisterModelRequest(
            model_id=model_id,
            served_name=served_name,
            spec=specs.to_message(spec, ModelSpec(), "spec"),
            card=message_or_none(card, ModelCard(), "card"),
            rollout_policy=message_or_none(rollout_policy, RolloutPolicy(), "rollout_policy"),
            labels=labels or {},
            etag=etag,
            must_create=must_create,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._registry.RegisterModel, request, timeout_s)

    async def get_model(self, model: str, *, timeout_s: float | None = None) -> Model:
        """Get a model with its state on every data plane.

        Raises:
            NotFound: There is no such model.
        """
        request = pb.GetModelRequest(name=model_resource(model))
        return (await self._call(self._registry.GetModel, request, timeout_s)).model

    async def list_models(
        self, *, filter: str = "", order_by: str = "", show_deleted: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[Model]:
        """List models with their states. Pages are fetched as they are needed.

        Args:
            filter: Which models, such as `labels.env = prod AND state = FAILED`; see
                `ListModelsRequest.filter` in `registry_service.proto`. Default: all.
            order_by: Fields to sort by, such as `create_time desc`: `name`, `served_name`,
                `create_time`, `update_time`. Default: `name`.
            show_deleted: Include deleted models.
            timeout_s: Deadline of each page in seconds. None: that of the client.

        Raises:
            InvalidArgument: The filter or the order is invalid; the violation says what is allowed.
        """
        request = pb.ListModelsRequest(filter=filter, order_by=order_by, show_deleted=show_deleted)
        async for page in self._pages(self._registry.ListModels, request, timeout_s):
            for model in page.models:
                yield model

    async def list_model_revisions(self, model: str, *, timeout_s: float | None = None) -> AsyncIterator[ModelRevision]:
        """List the revisions of a model, newest first.

        Raises:
            NotFound: There is no such model.
        """
        request = pb.ListModelRevisionsRequest(parent=model_resource(model))
        async for page in self._pages(self._registry.ListModelRevisions, request, timeout_s):
            for revision in page.revisions:
                yield revision

    async def update_model(
        self,
        model: str,
        *,
        served_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        card: ModelCard | Mapping[str, object] | None = None,
        scaling: Scaling | Mapping[str, object] | None = None,
        admission: Admission | Mapping[str, object] | None = None,
        update_mask: Iterable[str] | None = None,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UpdateModelResponse:
        """Replace the given fields of a model and leave the others.

        Args:
            update_mask: Paths to change, such as `revision.card.description`: for a part of a given
                field, or to reset a field to its default. Default: the fields that are given.
            etag: Etag of the model as read. The call fails if the model has changed since.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidSpec: A mapping has unknown fields or wrong types; nothing was sent.
            InvalidArgument: A field breaks a rule, or the mask names a field that cannot change.
            NotFound: There is no such model.
            AlreadyExists: The served name is taken.
            Aborted: `etag` is stale.
        """
        request = update_model(
            model,
            served_name=served_name,
            labels=labels,
            card=card,
            scaling=scaling,
            admission=admission,
            update_mask=update_mask,
            etag=etag,
        )
        request.validate_only, request.request_id = validate_only, request_id
        return await self._call(self._registry.UpdateModel, request, timeout_s)

    async def delete_model(
        self,
        model: str,
        *,
        force: bool = False,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> DeleteModelResponse:
        """Delete a model. It can be undeleted until its purge time.

        Args:
            force: Delete its adapters too, and remove all of them from the routes that use them.
            etag: Etag of the model as read. The call fails if the model has changed since.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such model.
            FailedPrecondition: It has adapters or is used by routes, and `force` is False; or a
                route would lose its last target.
            Aborted: `etag` is stale.
        """
        name = model_resource(model)
        request = pb.DeleteModelRequest(
            name=name, force=force, etag=etag, validate_only=validate_only, request_id=request_id
        )
        return await self._call(self._registry.DeleteModel, request, timeout_s)

    async def undelete_model(
        self,
        model: str,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> UndeleteModelResponse:
        """Restore a deleted model, and the adapters that were deleted with it.

        Args:
            etag: Etag of the model as read. The call fails if the model has changed since.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such model, or its purge time has passed.
            AlreadyExists: It is not deleted, or one of the served names is taken by now.
            Aborted: `etag` is stale.
        """
        name = model_resource(model)
        request = pb.UndeleteModelRequest(name=name, etag=etag, validate_only=validate_only, request_id=request_id)
        return await self._call(self._registry.UndeleteModel, request, timeout_s)
