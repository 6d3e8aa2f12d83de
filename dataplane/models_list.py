"""The bodies of `GET /v1/models` and `GET /v1/models/{name}`: a function of the snapshot alone.

They say nothing of a model's present state, so that the list is the same bytes until the catalog changes, and a model
that has never run looks like any other.
"""

from __future__ import annotations

import asyncio

import msgspec

from dataplane.api_keys import ApiKey
from dataplane.snapshot import Resource, Snapshot, model_of
from modelplane.v1 import snapshot_pb2

_DEFAULT_OWNER = "modelplane"
_BODIES_MAX = 16
"""Lists that are kept for keys with different patterns. One of a hundred thousand names has about 15 MB."""
_SLICE_ENTRIES = 1000
"""Entries that are encoded in one go, about 10 ms; requests get their turn in between."""


class ModelObject(msgspec.Struct, omit_defaults=True):
    """A model as OpenAI shows it, with the fields that vLLM adds."""

    id: str
    created: int
    """Unix time in seconds."""
    owned_by: str
    root: str
    """Served name of the base; a base's own name for itself. vLLM shows a path here, which is nobody's business."""
    object: str = msgspec.field(default_factory=lambda: "model")
    parent: str | None = None
    """Adapters: served name of the base."""
    max_model_len: int | None = None
    """Tokens that fit into one request with its answer, where the card or the engine's args state it."""


def model_object(snapshot: Snapshot, entry: Resource) -> ModelObject:
    """One entry of the list."""
    if isinstance(entry, snapshot_pb2.RouteEntry):
        return _route_object(snapshot, entry)
    base = snapshot.models[entry.model] if isinstance(entry, snapshot_pb2.AdapterEntry) else entry
    base_card = base.revision.card
    owned_by = entry.revision.card.owned_by or base_card.owned_by or _DEFAULT_OWNER
    return ModelObject(
        id=entry.served_name,
        created=entry.create_time.seconds,
        owned_by=owned_by,
        root=base.served_name,
        parent=base.served_name if base is not entry else None,
        max_model_len=base_card.context_window or _max_model_len(base),
    )


def _route_object(snapshot: Snapshot, route: snapshot_pb2.RouteEntry) -> ModelObject:
    # What fits into whichever target a request goes to; nothing is said where one of them does not say it.
    targets = [target.resource for target in route.revision.spec.targets]
    bases = [snapshot.deployable.get(_base(snapshot, resource)) for resource in targets]
    lengths = [base and (base.revision.card.context_window or _max_model_len(base)) for base in bases]
    known = [length for length in lengths if length]
    return ModelObject(
        id=route.served_name,
        created=route.create_time.seconds,
        owned_by=_DEFAULT_OWNER,
        root=route.served_name,
        max_model_len=min(known) if len(known) == len(lengths) else None,
    )


def _base(snapshot: Snapshot, resource: str) -> str:
    """What runs a target: a model or a pinned revision of one; for adapters their model."""
    return resource if resource in snapshot.deployable else model_of(resource)


def _max_model_len(model: snapshot_pb2.ModelEntry) -> int | None:
    args = model.revision.spec.engine.args.fields
    for key in ("max_model_len", "max-model-len"):
        if key in args and args[key].number_value >= 1:
            return int(args[key].number_value)
    return None


def encode_model(snapshot: Snapshot, served_name: str) -> bytes | None:
    """The body for one name; None when the snapshot does not have it."""
    entry = snapshot.served.get(served_name)
    return msgspec.json.encode(model_object(snapshot, entry)) if entry is not None else None


class ModelsList:
    """The bodies of the list, encoded once per snapshot: the whole one, and those for keys that do not see it all."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._bodies: dict[tuple[str, ...], bytes] = {}
        """By the patterns of who asks. Of one snapshot only."""
        self._lock = asyncio.Lock()

    async def body(self, snapshot: Snapshot, key: ApiKey | None = None) -> bytes:
        """The list of that snapshot, as far as `key` may see it; None: all of it."""
        patterns = () if key is None or key.sees_everything else key.patterns
        if self._snapshot is snapshot and patterns in self._bodies:
            return self._bodies[patterns]
        async with self._lock:  # many ask at once after a change; one encodes
            if self._snapshot is not snapshot:
                self._bodies, self._snapshot = {}, snapshot
            if patterns not in self._bodies:
                body = await _encode(snapshot, key if patterns else None)
                if len(self._bodies) >= _BODIES_MAX:
                    self._bodies.clear()
                self._bodies[patterns] = body
            return self._bodies[patterns]


async def _encode(snapshot: Snapshot, key: ApiKey | None) -> bytes:
    encoder = msgspec.json.Encoder()
    encoded: list[bytes] = []
    for number, (served_name, entry) in enumerate(snapshot.served.items(), start=1):
        if key is None or key.may_use(served_name):
            encoded.append(encoder.encode(model_object(snapshot, entry)))
        if number % _SLICE_ENTRIES == 0:
            await asyncio.sleep(0)
    return b'{"object":"list","data":[' + b",".join(encoded) + b"]}"
