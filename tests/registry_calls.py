"""Translates between `tests/registry_model` and the requests and answers of the registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import duration_pb2
from google.protobuf import message as protobuf_message

from broadsheet.v1 import (
    adapter_pb2,
    api_key_pb2,
    model_pb2,
    rollback_pb2,
    rollout_pb2,
    route_pb2,
    snapshot_pb2,
    warming_pb2,
)
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane.catalog import domain
from tests.registry_model import calls, values
from tests.registry_world import NO_CONTEXT, World, spec

WARM_S = 5 * 86400
"""Longer than the clock of any test runs."""

CANARY = rollout_pb2.RolloutPolicy(
    strategy=rollout_pb2.RolloutPolicy.STRATEGY_CANARY, steps=[rollout_pb2.CanaryStep(percent=10)]
)

Etags = Mapping[values.Tag, str]
"""The etags that the registry has returned, by the state that they stand for."""

UNKNOWN_ETAG = 'W/"0000000000000000"'
"""Stands for the etag of a resource that never existed."""

LIMITS = api_key_pb2.ApiKeyLimits(allowed_served_names=["*"])

M = TypeVar("M", bound=protobuf_message.Message)


class Caller:
    """Sends calls to a registry."""

    def __init__(self, etags: Etags, directory: Path) -> None:
        """
        Args:
            etags: Looked up when a call is sent. More may be added between calls.
            directory: Holds the adapters in `lora0`, `lora1`, …, one for each possible content.
        """
        self._etags = etags
        self._directory = directory

    async def send(self, world: World, call: calls.Call) -> protobuf_message.Message:
        """The answer to a call.

        Raises:
            errors.DomainError: The registry refused.
        """
        request = self.request(call)
        method = type(call).__name__
        servicer = world.snapshots if isinstance(call, calls.RollbackCatalog) else world.registry
        handler: Callable[[Any, Any], Awaitable[protobuf_message.Message]] = getattr(servicer, method)
        return await handler(request, NO_CONTEXT)

    def request(self, call: calls.Call) -> protobuf_message.Message:
        build: Callable[[Any], Any] = getattr(self, f"_{type(call).__name__}")
        request = build(call)
        request.request_id = call.request_id
        request.validate_only = call.validate_only
        return request  # type: ignore[no-any-return]  # one of the builders below

    def _etag(self, tag: values.Tag | None) -> str:
        return self._etags.get(tag, UNKNOWN_ETAG) if tag is not None else ""

    def _source(self, number: int) -> model_pb2.Source:
        return model_pb2.Source(uri=f"file://{self._directory}/lora{number}")

    def _RegisterModel(self, call: calls.RegisterModel) -> pb.RegisterModelRequest:
        return pb.RegisterModelRequest(
            model_id=call.name.removeprefix("models/"),
            served_name=call.served_name,
            spec=spec(scaling={"minReplicas": call.content.weights}),
            card=model_pb2.ModelCard(description=call.content.text),
            labels={"team": call.team} if call.team else {},
            must_create=call.must_create,
            etag=self._etag(call.etag),
            rollout_policy=CANARY if call.canary else None,
        )

    def _UpdateModel(self, call: calls.UpdateModel) -> pb.UpdateModelRequest:
        request = pb.UpdateModelRequest(model=model_pb2.Model(name=call.name, etag=self._etag(call.etag)))
        paths = request.update_mask.paths
        if call.served_name is not None:
            request.model.served_name = call.served_name
            paths.append("served_name")
        if call.team is not None:
            request.model.labels.update({"team": call.team} if call.team else {})
            paths.append("labels")
        if call.weights is not None:
            request.model.revision.spec.scaling.min_replicas = call.weights
            paths.append("revision.spec.scaling")
        if call.text is not None:
            request.model.revision.card.description = call.text
            paths.append("revision.card.description")
        return request

    def _RollbackModel(self, call: calls.RollbackModel) -> pb.RollbackModelRequest:
        return pb.RollbackModelRequest(name=call.name, revision_number=call.number, etag=self._etag(call.etag))

    def _DeleteModel(self, call: calls.DeleteModel) -> pb.DeleteModelRequest:
        return pb.DeleteModelRequest(name=call.name, force=call.force, etag=self._etag(call.etag))

    def _UndeleteModel(self, call: calls.UndeleteModel) -> pb.UndeleteModelRequest:
        return pb.UndeleteModelRequest(name=call.name, etag=self._etag(call.etag))

    def _ControlRollout(self, call: calls.ControlRollout) -> rollout_pb2.ControlRolloutRequest:
        action = rollout_pb2.ControlRolloutRequest.Action.Value(f"ACTION_{call.action}")
        return rollout_pb2.ControlRolloutRequest(name=call.name, action=action)

    def _WarmModel(self, call: calls.WarmModel) -> warming_pb2.WarmModelRequest:
        duration = duration_pb2.Duration(seconds=0 if call.ends else WARM_S)
        return warming_pb2.WarmModelRequest(name=call.name, duration=duration, etag=self._etag(call.etag))

    def _RegisterAdapter(self, call: calls.RegisterAdapter) -> pb.RegisterAdapterRequest:
        parent, _, adapter_id = call.name.partition("/adapters/")
        return pb.RegisterAdapterRequest(
            parent=parent,
            adapter_id=adapter_id,
            served_name=call.served_name,
            source=self._source(call.content.weights),
            card=adapter_pb2.AdapterCard(description=call.content.text),
            must_create=call.must_create,
            etag=self._etag(call.etag),
        )

    def _UpdateAdapter(self, call: calls.UpdateAdapter) -> pb.UpdateAdapterRequest:
        request = pb.UpdateAdapterRequest(adapter=adapter_pb2.Adapter(name=call.name, etag=self._etag(call.etag)))
        if call.served_name is not None:
            request.adapter.served_name = call.served_name
            request.update_mask.paths.append("served_name")
        if call.text is not None:
            request.adapter.revision.card.description = call.text
            request.update_mask.paths.append("revision.card.description")
        return request

    def _RollbackAdapter(self, call: calls.RollbackAdapter) -> pb.RollbackAdapterRequest:
        return pb.RollbackAdapterRequest(name=call.name, revision_number=call.number, etag=self._etag(call.etag))

    def _DeleteAdapter(self, call: calls.DeleteAdapter) -> pb.DeleteAdapterRequest:
        return pb.DeleteAdapterRequest(name=call.name, force=call.force, etag=self._etag(call.etag))

    def _UndeleteAdapter(self, call: calls.UndeleteAdapter) -> pb.UndeleteAdapterRequest:
        return pb.UndeleteAdapterRequest(name=call.name, etag=self._etag(call.etag))

    def _SetRoute(self, call: calls.SetRoute) -> route_pb2.SetRouteRequest:
        return route_pb2.SetRouteRequest(
            route_id=call.name.removeprefix("routes/"),
            served_name=call.served_name,
            spec=route_pb2.RouteSpec(
                targets=[route_pb2.RouteTarget(resource=target) for target in call.targets],
                fallbacks=[route_pb2.RouteFallback(resource=fallback) for fallback in call.fallbacks],
            ),
        )

    def _DeleteRoute(self, call: calls.DeleteRoute) -> route_pb2.DeleteRouteRequest:
        return route_pb2.DeleteRouteRequest(name=call.name)

    def _CreateApiKey(self, call: calls.CreateApiKey) -> api_key_pb2.CreateApiKeyRequest:
        return api_key_pb2.CreateApiKeyRequest(api_key_id=call.name.removeprefix("apiKeys/"), limits=LIMITS)

    def _RevokeApiKey(self, call: calls.RevokeApiKey) -> api_key_pb2.RevokeApiKeyRequest:
        return api_key_pb2.RevokeApiKeyRequest(name=call.name)

    def _RollbackCatalog(self, call: calls.RollbackCatalog) -> rollback_pb2.RollbackCatalogRequest:
        return rollback_pb2.RollbackCatalogRequest(
            to_revision=call.to_revision, expected_revision=call.expected_revision
        )

    def entry(self, entry: domain.Entry) -> values.Entry:
        """An entry of a snapshot."""
        kind = _ENTRIES[entry.type]
        message: Any = kind.FromString(entry.blob)
        assert isinstance(message, snapshot_pb2.ModelRevisionEntry | snapshot_pb2.AdapterRevisionEntry) or (
            message.name == entry.name
        )
        match message:
            case snapshot_pb2.ModelEntry():
                candidate = (
                    (message.candidate.number, self.content(message.candidate))
                    if message.HasField("candidate")
                    else None
                )
                revision = message.revision
                team = message.labels.get("team", "")
                return (message.served_name, team, revision.number, self.content(revision), candidate)
            case snapshot_pb2.AdapterEntry():
                return (message.served_name, message.revision.number, self.content(message.revision))
            case snapshot_pb2.RouteEntry():
                return (message.served_name, message.revision.number, *_references(message.revision.spec))
            case snapshot_pb2.ModelRevisionEntry() | snapshot_pb2.AdapterRevisionEntry():
                return (message.revision.number, self.content(message.revision))
            case api_key_pb2.ApiKeyEntry():
                assert message.revoked == (not message.key_hash)
                return (message.revoked,)
            case _:
                raise AssertionError(f"entry of an unknown type: {entry.type}")

    def content(self, revision: model_pb2.ModelRevision | adapter_pb2.AdapterRevision) -> values.Content:
        """The content of a revision."""
        if isinstance(revision, model_pb2.ModelRevision):
            return values.Content(revision.spec.scaling.min_replicas, revision.card.description)
        return values.Content(
            int(revision.source.uri.removeprefix(self._source(0).uri[:-1])), revision.card.description
        )

    def answer(self, message: Any) -> calls.Answer:
        """The answer of any method."""
        fields = message.DESCRIPTOR.fields_by_name
        return calls.Answer(
            catalog_revision=message.catalog_revision,
            created=message.created if "created" in fields else None,
            resource=self.resource_in(message),
            count=getattr(message, "adapter_count", 0) or getattr(message, "change_count", 0),
            rollout=_state(message.rollout) if "rollout" in fields else "",
            shows_key=bool(getattr(message, "key", "")),
        )

    def resource_in(self, answer: Any) -> values.Model | values.Adapter | values.Route | values.ApiKey | None:
        """The resource in the answer of any method. None: the answer has none."""
        fields = answer.DESCRIPTOR.fields_by_name
        found = [name for name in ("model", "adapter", "route", "api_key") if name in fields]
        return self.resource(getattr(answer, found[0])) if found else None

    def resource(self, message: Any) -> values.Model | values.Adapter | values.Route | values.ApiKey:
        """A resource of any kind."""
        match message:
            case model_pb2.Model():
                return self.model(message)
            case adapter_pb2.Adapter():
                return values.Adapter(
                    name=message.name,
                    served_name=message.served_name,
                    number=message.revision.number,
                    content=self.content(message.revision),
                    catalog_revision=message.catalog_revision,
                    is_deleted=message.HasField("delete_time"),
                )
            case route_pb2.Route():
                targets, fallbacks = _references(message.revision.spec)
                return values.Route(
                    name=message.name,
                    served_name=message.served_name,
                    number=message.revision.number,
                    targets=targets,
                    fallbacks=fallbacks,
                    catalog_revision=message.catalog_revision,
                )
            case api_key_pb2.ApiKey():
                return values.ApiKey(
                    name=message.name,
                    is_revoked=message.HasField("revoke_time"),
                    catalog_revision=message.catalog_revision,
                )
            case _:
                raise AssertionError(f"not a resource: {message.DESCRIPTOR.name}")

    def model(self, message: model_pb2.Model) -> values.Model:
        """A model."""
        state = _state(message.rollout) if message.HasField("rollout") else ""
        return values.Model(
            name=message.name,
            served_name=message.served_name,
            team=message.labels.get("team", ""),
            canary=message.rollout_policy.strategy == rollout_pb2.RolloutPolicy.STRATEGY_CANARY,
            number=message.revision.number,
            content=self.content(message.revision),
            stable=message.rollout.stable_number if state in ("RUNNING", "PAUSED") else None,
            rollout=state,
            is_warm=message.HasField("warm_until"),
            catalog_revision=message.catalog_revision,
            is_deleted=message.HasField("delete_time"),
        )


_ENTRIES: Mapping[str, type[protobuf_message.Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        snapshot_pb2.ModelEntry,
        snapshot_pb2.AdapterEntry,
        snapshot_pb2.RouteEntry,
        snapshot_pb2.ModelRevisionEntry,
        snapshot_pb2.AdapterRevisionEntry,
        api_key_pb2.ApiKeyEntry,
    )
}


def _state(rollout: rollout_pb2.Rollout) -> str:
    return rollout_pb2.Rollout.State.Name(rollout.state).removeprefix("STATE_")


def _references(route: route_pb2.RouteSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (
        tuple(target.resource for target in route.targets),
        tuple(fallback.resource for fallback in route.fallbacks),
    )
