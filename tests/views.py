"""Catalogs and views for tests of the data plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf import json_format

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.activation import Activation, Endpoint, ModelActivation, State, View
from dataplane.snapshot.indexes.build import build
from dataplane.snapshot.snapshot import Message, Position, Snapshot
from protocol.api_keys import key_hash
from protocol.catalog_digest import CatalogDigest


def model(
    model_id: str,
    *,
    served_name: str = "",
    number: int = 1,
    admission: Mapping[str, object] | None = None,
    card: Mapping[str, object] | None = None,
    args: Mapping[str, object] | None = None,
) -> snapshot_pb2.ModelEntry:
    """A model's entry. `admission` and `card` are in JSON form; absent fields stay unset."""
    spec = {"engine": {"kind": "KIND_SIMULATED", "args": dict(args or {})}, "admission": dict(admission or {})}
    return json_format.ParseDict(
        {
            "name": f"models/{model_id}",
            "servedName": served_name or model_id,
            "revision": {
                "name": f"models/{model_id}/revisions/{number}",
                "number": number,
                "spec": spec,
                "card": dict(card or {}),
            },
            "createTime": "2026-01-02T03:04:05Z",
        },
        snapshot_pb2.ModelEntry(),
    )


def adapter(
    model_id: str, adapter_id: str, *, served_name: str = "", digest: bytes = b"\xab" * 32, card_text: str = ""
) -> snapshot_pb2.AdapterEntry:
    """An adapter's entry."""
    entry = snapshot_pb2.AdapterEntry(
        name=f"models/{model_id}/adapters/{adapter_id}",
        served_name=served_name or f"{model_id}:{adapter_id}",
        model=f"models/{model_id}",
    )
    entry.revision.number = 1
    entry.revision.weights.digest = digest
    entry.revision.card.description = card_text
    return entry


def route(
    route_id: str,
    targets: Mapping[str, int],
    *,
    fallbacks: Mapping[str, Sequence[str]] | None = None,
    sticky: Mapping[str, object] | None = None,
    served_name: str = "",
) -> snapshot_pb2.RouteEntry:
    """A route's entry. `targets` are weights, `fallbacks` conditions, both by resource."""
    spec: dict[str, object] = {
        "targets": [{"resource": resource, "weight": weight} for resource, weight in targets.items()],
        "fallbacks": [
            {"resource": resource, "conditions": [f"CONDITION_{condition}" for condition in conditions]}
            for resource, conditions in (fallbacks or {}).items()
        ],
    }
    if sticky is not None:
        spec["sticky"] = dict(sticky)
    return json_format.ParseDict(
        {
            "name": f"routes/{route_id}",
            "uid": f"uid of {route_id}",
            "servedName": served_name or route_id,
            "revision": {"name": f"routes/{route_id}/revisions/1", "number": 1, "spec": spec},
            "createTime": "2026-01-02T03:04:05Z",
        },
        snapshot_pb2.RouteEntry(),
    )


def with_candidate(
    stable: snapshot_pb2.ModelEntry, candidate: snapshot_pb2.ModelEntry, percent: int, *, warm: bool = True
) -> snapshot_pb2.ModelEntry:
    """The entry of `stable` while the revision of `candidate` is being rolled out."""
    entry = snapshot_pb2.ModelEntry()
    entry.CopyFrom(stable)
    entry.candidate.CopyFrom(candidate.revision)
    entry.candidate_percent, entry.warm_candidate = percent, warm
    return entry


def pinned(model: snapshot_pb2.ModelEntry) -> snapshot_pb2.ModelRevisionEntry:
    """A pin of the revision of `model`."""
    return snapshot_pb2.ModelRevisionEntry(
        name=f"{model.name}/revisions/{model.revision.number}",
        model=model.name,
        model_uid=model.uid,
        revision=model.revision,
    )


def api_key(key_id: str, key: str, *allowed: str, revoked: bool = False, **fields: object) -> api_key_pb2.ApiKeyEntry:
    """A key's entry. `fields` are limits in JSON form, and `expireTime`."""
    expire = {"expireTime": fields.pop("expireTime")} if "expireTime" in fields else {}
    entry = json_format.ParseDict(
        {
            "name": f"apiKeys/{key_id}",
            "uid": f"uid-{key_id}",
            "limits": {"allowedServedNames": list(allowed) or ["*"], **fields},
            **expire,
        },
        api_key_pb2.ApiKeyEntry(),
    )
    entry.revoked = revoked
    entry.key_hash = b"" if revoked else key_hash(key)
    return entry


def snapshot(*entries: Message, revision: int = 7) -> Snapshot:
    """A snapshot of these entries."""
    return build(
        Position(store_uid="store", revision=revision, digest=b"\0" * 32),
        (),
        CatalogDigest(),
        entries,
        {},
    )


def endpoints(*urls: str) -> tuple[Endpoint, ...]:
    """Endpoints whose replica ids are their URLs."""
    return tuple(Endpoint(replica_id=url, url=url) for url in urls)


def ready(*urls: str, number: int = 1, application: str = "app-1", secret: str = "") -> ModelActivation:
    """A READY model with these endpoints."""
    return ModelActivation(
        state=State.READY,
        revision_number=number,
        application=application,
        endpoints=endpoints(*urls),
        secret=secret,
    )


def view(catalog: Snapshot, activations: Mapping[str, ModelActivation] | None = None) -> View:
    """A view; `activations` by model id."""
    models = {f"models/{model_id}": activation for model_id, activation in (activations or {}).items()}
    return View(snapshot=catalog, activation=Activation(sequence=1, models=models))
