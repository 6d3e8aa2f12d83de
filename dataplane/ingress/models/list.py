"""The bodies of `GET /v1/models` and `GET /v1/models/{name}`: a function of the view, so of the
snapshot and of what this data plane has made of it.

An entry is encoded once, all but its state, and again when a snapshot has changed it. A list puts
the entries together, each with its state of the moment, and is kept until the state of a model
changes. So a change of state costs no encoding, a model that has never run is listed as IDLE, and
nothing is asked of anybody.
"""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections.abc import Iterator, Mapping

import msgspec

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.activation import Activation, State, View
from dataplane.snapshot.api_key import ApiKey
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
"""Task by what a card names as a capability. Others (`tools`, …) say nothing of the task."""
_POOLING_TASKS = ("embed", "score", "classify")
_LEAST_ABLE_FIRST = (
    State.QUARANTINED,
    State.FAILED,
    State.DRAINING,
    State.IDLE,
    State.DEPLOYING,
    State.DEGRADED,
    State.READY,
)
_BODIES_MAX = 16
"""Lists that are kept for keys with different patterns. One of a hundred thousand names has about
20 MB."""
_SLICE_ENTRIES = 250
"""Entries that are encoded in one go, a few ms; requests get their turn in between."""
_NOTHING = ""
"""In the place of a target's base: the target is quarantined."""
_HEAD, _END = b'{"object":"list","data":[', b"]}"


class ModelObject(msgspec.Struct, omit_defaults=True):
    """A model as OpenAI shows it, with the fields that vLLM adds, and what it does and how it
    stands here."""

    id: str
    created: int
    """Unix time in seconds."""
    owned_by: str
    root: str
    """Served name of the base; a base's own name for itself. vLLM shows a path here, which is
    nobody's business."""
    object: str = msgspec.field(default_factory=lambda: "model")
    parent: str | None = None
    """Adapters: served name of the base."""
    max_model_len: int | None = None
    """Tokens that fit into one request with its answer, where the card or the engine's args state
    it."""
    task: str | None = None
    """`generate`, `embed`, `score`, `classify` or `transcribe`: the base's. Of a route: that of all
    its targets."""
    state: str | None = None
    """Name of a `ResourceState`: what a request meets here now. Of an adapter: that of its base. Of
    a route: that of the least able target; what it may fall back to does not count."""


def model_object(view: View, entry: Resource) -> ModelObject:
    """One entry of the list."""
    shown = _stateless(view.snapshot, entry)
    shown.state = _state(view.activation, _bases(view.snapshot, entry)).value
    return shown


def _stateless(snapshot: Snapshot, entry: Resource) -> ModelObject:
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
    # What holds for whichever target a request goes to; nothing is said where one of them does not
    # say it.
    bases = [snapshot.deployable.get(name) for name in _bases(snapshot, route)]
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


def _bases(snapshot: Snapshot, entry: Resource) -> tuple[str, ...]:
    """What runs an entry: a model or a pinned revision of one; for an adapter its model; for a
    route all of these."""
    if isinstance(entry, snapshot_pb2.RouteEntry):
        return tuple(_base(snapshot, target.resource) for target in entry.revision.spec.targets if target.weight)
    return (entry.model if isinstance(entry, snapshot_pb2.AdapterEntry) else entry.name,)


def _base(snapshot: Snapshot, resource: str) -> str:
    if resource in snapshot.deployable:
        return resource
    return model_of(resource) if resource in snapshot.adapters or resource in snapshot.pinned_adapters else _NOTHING


def _state(activation: Activation, bases: tuple[str, ...]) -> State:
    states = [_state_of(activation, base) for base in bases]
    return states[0] if len(states) == 1 else min(states, key=_LEAST_ABLE_FIRST.index)


def _state_of(activation: Activation, base: str) -> State:
    if base == _NOTHING:
        return State.QUARANTINED
    known = activation.models.get(base)
    return known.state if known is not None else State.IDLE


def _task(model: snapshot_pb2.ModelEntry) -> str:
    """What the engine's args or else the card say. A pooling engine generates nothing, whatever its
    card says."""
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


def encode_model(view: View, served_name: str) -> bytes | None:
    """The body for one name; None when the view does not have it."""
    entry = view.snapshot.served.get(served_name)
    return msgspec.json.encode(model_object(view, entry)) if entry is not None else None


class ModelsList:
    """The bodies of the list: the whole one, and those for keys that do not see it all."""

    def __init__(self) -> None:
        self._rows: _Rows | None = None
        """Of one snapshot only."""
        self._lock = asyncio.Lock()

    async def body(self, view: View, key: ApiKey | None = None) -> bytes:
        """The list of that view, as far as `key` may see it; None: all of it."""
        patterns = () if key is None or key.sees_everything else key.patterns
        rows = self._rows
        if rows is None or rows.snapshot is not view.snapshot or not rows.has_selected(patterns):
            async with self._lock:  # many ask at once after a change; one encodes
                rows = self._rows
                if rows is None or rows.snapshot is not view.snapshot:
                    rows = self._rows = await _encode(view.snapshot, rows)
                if key is not None and not rows.has_selected(patterns):
                    await rows.select(patterns, key)
        return rows.body(patterns, view.activation)


class _Rows:
    """The encoded entries of one snapshot in their order, each in two pieces: what is said of it,
    and its state."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._pieces: list[bytes] = []
        """Of row n: 2n and 2n + 1."""
        self._rows_of: dict[str, array[int]] = {}
        """By what runs them: a catalog of adapters has many of one model."""
        self._routes: dict[int, tuple[str, ...]] = {}
        """What runs the targets, by row; only where there are several."""
        self._activation = Activation(sequence=-1, models={})
        self._states: Mapping[str, State] = {}
        """Of what is not IDLE: what the pieces show."""
        self._selected: dict[tuple[str, ...], array[int]] = {}
        """Rows that a key sees, by its patterns."""
        self._bodies: dict[tuple[str, ...], bytes] = {}
        """By the patterns of who asks; of the states that the pieces show."""

    def said(self) -> Mapping[str, bytes]:
        """What is said of each entry, by served name."""
        return dict(zip(self.snapshot.served, itertools.islice(self._pieces, 0, None, 2), strict=True))

    def append(self, entry: Resource, said: bytes) -> None:
        """Add a row, as it stands when nothing runs."""
        row = len(self._pieces) // 2
        bases = _bases(self.snapshot, entry)
        for base in set(bases):
            self._rows_of.setdefault(base, array("I")).append(row)
        if len(bases) > 1:
            self._routes[row] = bases
        self._pieces.append(said)
        self._pieces.append(_STATE_PIECES[_state(self._activation, bases)])

    def has_selected(self, patterns: tuple[str, ...]) -> bool:
        """Whether it is known what those patterns leave to be seen. None leave it all."""
        return not patterns or patterns in self._selected

    async def select(self, patterns: tuple[str, ...], key: ApiKey) -> None:
        """Find out which rows a key sees."""
        selected = array("I")
        for row, served_name in enumerate(self.snapshot.served):
            if key.may_use(served_name):
                selected.append(row)
            if row % _SLICE_ENTRIES == 0:
                await asyncio.sleep(0)
        if len(self._selected) >= _BODIES_MAX:
            self._selected.clear()
            self._bodies.clear()
        self._selected[patterns] = selected

    def body(self, patterns: tuple[str, ...], activation: Activation) -> bytes:
        """The list for whoever has those patterns, which were selected; 15 ms for a hundred
        thousand rows."""
        if activation is not self._activation:
            self._show(activation)
        body = self._bodies.get(patterns)
        if body is None:
            pieces = [_HEAD, *(self._pieces if not patterns else self._selected_pieces(patterns)), _END]
            if len(pieces) > 2:
                pieces[1] = pieces[1][1:]  # no comma before the first
            body = self._bodies[patterns] = b"".join(pieces)
        return body

    def _selected_pieces(self, patterns: tuple[str, ...]) -> Iterator[bytes]:
        pieces = self._pieces
        return itertools.chain.from_iterable((pieces[2 * row], pieces[2 * row + 1]) for row in self._selected[patterns])

    def _show(self, activation: Activation) -> None:
        states = {name: model.state for name, model in activation.models.items() if model.state is not State.IDLE}
        changed = {name for name, _ in self._states.items() ^ states.items()}
        for name in changed:
            state = _STATE_PIECES[states.get(name, State.IDLE)]
            for row in self._rows_of.get(name, ()):
                bases = self._routes.get(row)
                self._pieces[2 * row + 1] = state if bases is None else _STATE_PIECES[_state(activation, bases)]
        if changed:
            self._bodies.clear()
        self._activation, self._states = activation, states


_STATE_PIECES = {state: f',"state":"{state.value}"}}'.encode() for state in State}


async def _encode(snapshot: Snapshot, before: _Rows | None) -> _Rows:
    """The rows of `snapshot`. What is said of an entry that has not changed is taken from the rows
    `before`."""
    encoder = msgspec.json.Encoder()
    known = before.said() if before is not None else {}
    rows = _Rows(snapshot)
    for number, (name, entry) in enumerate(snapshot.served.items(), start=1):
        if before is not None and _is_same(before.snapshot, snapshot, entry):
            rows.append(entry, known[name])
        else:
            rows.append(entry, b"," + encoder.encode(_stateless(snapshot, entry))[:-1])
        if number % _SLICE_ENTRIES == 0:
            await asyncio.sleep(0)
    return rows


def _is_same(before: Snapshot, snapshot: Snapshot, entry: Resource) -> bool:
    """Whether surely the same is said of an entry as before; what is said of a route depends on all
    its targets."""
    if isinstance(entry, snapshot_pb2.RouteEntry) or before.served.get(entry.served_name) is not entry:
        return False
    return not isinstance(entry, snapshot_pb2.AdapterEntry) or (
        before.models[entry.model] is snapshot.models[entry.model]
    )
