"""The list of `GET /v1/models`, encoded once for each snapshot.

An entry is encoded without its state, and again when a snapshot has changed it. A list joins the
entries, each with its current state, and is kept until the state of a model changes. A change of
state therefore encodes nothing, a model that has never run is listed as IDLE, and no other process
is asked.
"""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections.abc import Iterator, Mapping

import msgspec

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress.models.model_object import bases_of, state_of, stateless_object
from dataplane.snapshot.activation import Activation, State, View
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.snapshot import Resource, Snapshot

_BODIES_MAX = 16
"""Lists that are kept for keys with different patterns. A list of a hundred thousand names has
about 20 MB."""
_SLICE_ENTRIES = 250
"""Entries that are encoded before other requests get their turn: a few ms."""
_HEAD, _END = b'{"object":"list","data":[', b"]}"


class ModelsList:
    """The bodies of the list: the whole list, and the lists of keys that see a part of it."""

    def __init__(self) -> None:
        self._rows: _Rows | None = None
        """Of the last snapshot."""
        self._lock = asyncio.Lock()

    async def body(self, view: View, key: ApiKey | None = None) -> bytes:
        """The list of `view` with what `key` may see; the whole list without a key."""
        patterns = () if key is None or key.sees_everything else key.patterns
        rows = self._rows
        if rows is None or rows.snapshot is not view.snapshot or not rows.has_selected(patterns):
            async with self._lock:  # after a change many ask at once; the first encodes
                rows = self._rows
                if rows is None or rows.snapshot is not view.snapshot:
                    rows = self._rows = await _encode(view.snapshot, rows)
                if key is not None and not rows.has_selected(patterns):
                    await rows.select(patterns, key)
        return rows.body(patterns, view.activation)


class _Rows:
    """The encoded entries of one snapshot in order, each in two pieces: entry and state."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._pieces: list[bytes] = []
        """The pieces of row n are at 2n and 2n + 1."""
        self._rows_of: dict[str, array[int]] = {}
        """Rows by the model that runs them. A model may have thousands of adapters."""
        self._routes: dict[int, tuple[str, ...]] = {}
        """The models that run a route's targets, by row; only for routes with several."""
        self._activation = Activation(sequence=-1, models={})
        self._states: Mapping[str, State] = {}
        """The states that the pieces show, by model; IDLE models are left out."""
        self._selected: dict[tuple[str, ...], array[int]] = {}
        """Rows that a key may see, by its patterns."""
        self._bodies: dict[tuple[str, ...], bytes] = {}
        """Lists by the patterns of the key, with the states that the pieces show."""

    def encoded(self) -> Mapping[str, bytes]:
        """The encoded entries without their states, by served name."""
        return dict(zip(self.snapshot.served, itertools.islice(self._pieces, 0, None, 2), strict=True))

    def append(self, entry: Resource, encoded: bytes) -> None:
        """Add a row in the state that it has when nothing runs."""
        row = len(self._pieces) // 2
        bases = bases_of(self.snapshot, entry)
        for base in set(bases):
            self._rows_of.setdefault(base, array("I")).append(row)
        if len(bases) > 1:
            self._routes[row] = bases
        self._pieces.append(encoded)
        self._pieces.append(_STATE_PIECES[state_of(self._activation, bases)])

    def has_selected(self, patterns: tuple[str, ...]) -> bool:
        """Whether the rows for these patterns are known. Without patterns every row is visible."""
        return not patterns or patterns in self._selected

    async def select(self, patterns: tuple[str, ...], key: ApiKey) -> None:
        """Find the rows that a key may see."""
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
        """The list for these patterns, which must be selected; 15 ms for 100,000 rows."""
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
                self._pieces[2 * row + 1] = state if bases is None else _STATE_PIECES[state_of(activation, bases)]
        if changed:
            self._bodies.clear()
        self._activation, self._states = activation, states


_STATE_PIECES = {state: f',"state":"{state.value}"}}'.encode() for state in State}


async def _encode(snapshot: Snapshot, before: _Rows | None) -> _Rows:
    """The rows of `snapshot`. Unchanged entries are taken from the rows `before`."""
    encoder = msgspec.json.Encoder()
    known = before.encoded() if before is not None else {}
    rows = _Rows(snapshot)
    for number, (name, entry) in enumerate(snapshot.served.items(), start=1):
        if before is not None and _is_same(before.snapshot, snapshot, entry):
            rows.append(entry, known[name])
        else:
            rows.append(entry, b"," + encoder.encode(stateless_object(snapshot, entry))[:-1])
        if number % _SLICE_ENTRIES == 0:
            await asyncio.sleep(0)
    return rows


def _is_same(before: Snapshot, snapshot: Snapshot, entry: Resource) -> bool:
    """Whether an entry is certain to be encoded as before. A route depends on all its targets."""
    if isinstance(entry, snapshot_pb2.RouteEntry) or before.served.get(entry.served_name) is not entry:
        return False
    return not isinstance(entry, snapshot_pb2.AdapterEntry) or (
        before.models[entry.model] is snapshot.models[entry.model]
    )
