"""One entry of `GET /v1/models`, from the snapshot and the activation. Pure."""

from __future__ import annotations

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.activation import Activation, State, View
from dataplane.snapshot.snapshot import Resource, Snapshot, model_of

_DEFAULT_OWNER = "broadsheet"
_GENERATE = "generate"
_TASKS = {
    "generate": _GENERATE,
    "chat": _GENERATE,
    "completions": _GENERATE,
    "embed": "embed",
    "embeddings": "embed",
    "score": "score",
    "rerank": "score",
    "classify": "classify",
    "transcribe": "transcribe",
    "transcriptions": "transcribe",
}
"""Task by capability of the card. Other capabilities (`tools`, …) do not determine a task."""
_POOLING_TASKS = ("embed", "score", "classify")
_WORST_FIRST = (
    State.QUARANTINED,
    State.FAILED,
    State.DRAINING,
    State.IDLE,
    State.DEPLOYING,
    State.DEGRADED,
    State.READY,
)
_QUARANTINED = ""
"""Stands for the base of a quarantined target."""


class ModelObject(msgspec.Struct, omit_defaults=True):
    """A model as OpenAI shows it, with vLLM's fields, and its task and state here."""

    id: str
    created: int
    """Unix time in seconds."""
    owned_by: str
    root: str
    """Served name of the base; for a base its own name. vLLM shows a path here, which callers must
    not see."""
    object: str = msgspec.field(default_factory=lambda: "model")
    parent: str | None = None
    """Adapters: served name of the base."""
    max_model_len: int | None = None
    """Most tokens of a prompt with its answer, if the card or the engine's args state it."""
    task: str | None = None
    """`generate`, `embed`, `score`, `classify` or `transcribe`: the task of the base. Of a route:
    the task of all its targets, if they have the same."""
    state: str | None = None
    """Name of the current `ResourceState`. Of an adapter: the state of its base. Of a route: the
    worst state of its targets, without its fallbacks."""


class AnthropicModelObject(ModelObject, kw_only=True):
    """A model for Anthropic's clients: the fields of Anthropic's own list beside OpenAI's."""

    type: str
    display_name: str
    """The card's, else the served name."""
    created_at: str
    """In RFC 3339; the Unix epoch if it is unknown."""
    lifecycle: str
    """Anthropic's: `active`, `deprecated` or `retired`. A model that is listed is `active`."""
    max_input_tokens: int | None = None


def anthropic_model_object(view: View, entry: Resource) -> AnthropicModelObject:
    """One entry of the list for Anthropic's clients, with its state."""
    shown = model_object(view, entry)
    card = None if isinstance(entry, snapshot_pb2.RouteEntry) else entry.revision.card
    return AnthropicModelObject(
        **msgspec.structs.asdict(shown),
        type="model",
        display_name=(card and card.display_name) or shown.id,
        created_at=Timestamp(seconds=shown.created).ToJsonString(),
        lifecycle="active",
        max_input_tokens=shown.max_model_len,
    )


def model_object(view: View, entry: Resource) -> ModelObject:
    """One entry of the list, with its state."""
    shown = stateless_object(view.snapshot, entry)
    shown.state = state_of(view.activation, bases_of(view.snapshot, entry)).value
    return shown


def stateless_object(snapshot: Snapshot, entry: Resource) -> ModelObject:
    """One entry of the list, without its state: a function of the snapshot alone."""
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
        task=_task(base),
    )


def _route_object(snapshot: Snapshot, route: snapshot_pb2.RouteEntry) -> ModelObject:
    # Only what holds for every target is shown.
    bases = [snapshot.deployable.get(name) for name in bases_of(snapshot, route)]
    lengths = [base and (base.revision.card.context_window or _max_model_len(base)) for base in bases]
    known = [length for length in lengths if length]
    tasks = {base and _task(base) for base in bases}
    return ModelObject(
        id=route.served_name,
        created=route.create_time.seconds,
        owned_by=_DEFAULT_OWNER,
        root=route.served_name,
        max_model_len=min(known) if len(known) == len(lengths) else None,
        task=tasks.pop() if len(tasks) == 1 else None,
    )


def bases_of(snapshot: Snapshot, entry: Resource) -> tuple[str, ...]:
    """Resource names of the models or pinned revisions that run an entry; several for a route."""
    if isinstance(entry, snapshot_pb2.RouteEntry):
        return tuple(_base(snapshot, target.resource) for target in entry.revision.spec.targets if target.weight)
    return (entry.model if isinstance(entry, snapshot_pb2.AdapterEntry) else entry.name,)


def _base(snapshot: Snapshot, resource: str) -> str:
    if resource in snapshot.deployable:
        return resource
    return model_of(resource) if resource in snapshot.adapters or resource in snapshot.pinned_adapters else _QUARANTINED


def state_of(activation: Activation, bases: tuple[str, ...]) -> State:
    """The state of an entry that these bases run: the worst of theirs."""
    states = [_base_state(activation, base) for base in bases]
    return states[0] if len(states) == 1 else min(states, key=_WORST_FIRST.index)


def _base_state(activation: Activation, base: str) -> State:
    if base == _QUARANTINED:
        return State.QUARANTINED
    known = activation.models.get(base)
    return known.state if known is not None else State.IDLE


def _task(model: snapshot_pb2.ModelEntry) -> str:
    """The task by the engine's args, then by the card. A pooling engine never generates."""
    stated = next((_TASKS[name] for name in model.revision.card.capabilities if name in _TASKS), None)
    args = model.revision.spec.engine.args.fields
    runner, convert = (args[key].string_value if key in args else "" for key in ("runner", "convert"))
    if runner != "pooling" and convert not in ("embed", "classify"):
        return stated or _GENERATE
    if stated in _POOLING_TASKS:
        return stated
    return "classify" if convert == "classify" else "embed"


def _max_model_len(model: snapshot_pb2.ModelEntry) -> int | None:
    args = model.revision.spec.engine.args.fields
    for key in ("max_model_len", "max-model-len"):
        if key in args and args[key].number_value >= 1:
            return int(args[key].number_value)
    return None


def encode_model(view: View, served_name: str, *, anthropic: bool = False) -> bytes | None:
    """The body for one served name; None if the view does not have it."""
    entry = view.snapshot.served.get(served_name)
    if entry is None:
        return None
    return msgspec.json.encode(anthropic_model_object(view, entry) if anthropic else model_object(view, entry))
