"""The entries of a snapshot as requests that register them elsewhere. Pure.

A snapshot holds what data planes are told, so some of a registry is not in it: rollout policies,
and revisions that nothing serves. The registry that imports numbers its own revisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from broadsheet.specs.requests import OWNER_LABEL, Request
from broadsheet.types import (
    AdapterEntry,
    Model,
    ModelEntry,
    RegisterAdapterRequest,
    RegisterModelRequest,
    RouteEntry,
    SetRouteRequest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Importable:
    """What of a snapshot can be registered elsewhere."""

    requests: tuple[Request, ...]
    """One for each model, adapter, and route that pins nothing."""
    pinning: tuple[str, ...]
    """Routes that pin a revision. Elsewhere it has another number, so they are left out."""
    rolling_out: tuple[str, ...]
    """Models with a newer revision under way. Only the revision before it is in `requests`."""
    digests: Mapping[str, bytes]
    """Digest of the files of each adapter, by name."""


def importable(messages: Mapping[str, Message], live: Iterable[Model] = ()) -> Importable:
    """The requests that register what is in a snapshot.

    Args:
        messages: The message of each entry, by name, as `protocol.bundles.content.check` returns
            them. API keys among them are passed over.
        live: The models of the registry that imports, which keep their rollout policies.
    """
    policies = {model.name: model for model in live if model.HasField("rollout_policy")}
    routes = [message for message in messages.values() if isinstance(message, RouteEntry)]
    pinning = {route.name for route in routes if any("/revisions/" in target for target in _targets(route))}
    models = [message for message in messages.values() if isinstance(message, ModelEntry)]
    adapters = [message for message in messages.values() if isinstance(message, AdapterEntry)]
    return Importable(
        requests=(
            *(_model(model, policies.get(model.name)) for model in models),
            *map(_adapter, adapters),
            *(_route(route) for route in routes if route.name not in pinning),
        ),
        pinning=tuple(sorted(pinning)),
        rolling_out=tuple(model.name for model in models if model.HasField("candidate")),
        digests={adapter.name: adapter.revision.weights.digest for adapter in adapters},
    )


def _model(entry: ModelEntry, live: Model | None) -> RegisterModelRequest:
    return RegisterModelRequest(
        model_id=entry.name.removeprefix("models/"),
        served_name=entry.served_name,
        spec=entry.revision.spec,
        card=entry.revision.card,
        labels=_labels(entry.labels),
        rollout_policy=live.rollout_policy if live is not None else None,
    )


def _adapter(entry: AdapterEntry) -> RegisterAdapterRequest:
    parent, _, adapter_id = entry.name.partition("/adapters/")
    return RegisterAdapterRequest(
        parent=parent,
        adapter_id=adapter_id,
        served_name=entry.served_name,
        source=entry.revision.source,
        card=entry.revision.card,
        labels=_labels(entry.labels),
    )


def _route(entry: RouteEntry) -> SetRouteRequest:
    return SetRouteRequest(
        route_id=entry.name.removeprefix("routes/"),
        served_name=entry.served_name,
        spec=entry.revision.spec,
        labels=_labels(entry.labels),
    )


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: labels[key] for key in sorted(labels) if key != OWNER_LABEL}


def _targets(route: RouteEntry) -> Iterator[str]:
    yield from (target.resource for target in route.revision.spec.targets)
    yield from (fallback.resource for fallback in route.revision.spec.fallbacks)
