"""The list of `GET /v1/models`, encoded once for each entry that changes.

An entry is encoded without its state, and again when a snapshot has changed it or what it depends
on. That costs time in proportion to the change (`depending`), and is done when somebody asks. A
body joins pieces of some hundred entries, each entry with its current state. A piece is kept until
an entry in it or the state of a model that it shows changes. No other process is asked, and a model
that has never run is listed as IDLE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dataplane.ingress.models.depending import changed_served_names
from dataplane.ingress.models.model_object import bases_of, state_of, stateless_object
from dataplane.snapshot.activation import Activation, State, View
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.persistent.sorted_map import SortedMap
from dataplane.snapshot.snapshot import Snapshot

_BODIES_MAX = 16
"""Lists that are kept for keys with different patterns. A list of a hundred thousand names has
about 20 MB."""
_SLICE_ENTRIES = 250
"""Entries that are encoded before other requests get their turn: at most a few ms."""
_HEAD, _END = b'{"object":"list","data":[', b"]}"
_STATE_PIECES = {state: f',"state":"{state.value}"}}'.encode() for state in State}

Patterns = tuple[str, ...]
"""Of served names that a key may use; empty: every name."""


class ModelsList:
    """The bodies of the list: the whole list, and the lists of keys that see a part of it."""

    def __init__(self) -> None:
        self._rows = _Rows()
        self._lock = asyncio.Lock()

    async def body(self, view: View, key: ApiKey | None = None) -> bytes:
        """The list of `view` with what `key` may see; the whole list without a key."""
        patterns = () if key is None or key.sees_everything else key.patterns
        kept = self._rows.kept_body(view, patterns)
        if kept is not None:
            return kept
        async with self._lock:  # after a change many ask at once; the first encodes
            await self._rows.follow(view.snapshot)
            if patterns and key is not None:
                await self._rows.select(patterns, key)
            return await self._rows.body(patterns, view.activation)


@dataclass(frozen=True, slots=True)
class _Row:
    """An entry as it is listed."""

    encoded: bytes
    """Without its state."""
    bases: tuple[str, ...]
    """The models that run it."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Entries of a list that follow each other."""

    names: tuple[str, ...]
    """Their served names: a run of keys of the map that they are listed from."""
    name_set: frozenset[str]
    bases: frozenset[str]
    """The models whose states it shows."""
    encoded: bytes


@dataclass(slots=True)
class _Selection:
    """What a key may see."""

    key: ApiKey | None
    """One of those that have these patterns; None: of the whole list."""
    names: SortedMap[str, Any]
    pieces: dict[int, _Piece] = field(default_factory=dict)
    """By the identity of `names` in the piece."""

    def drop_pieces(self, served_names: Set[str], bases: Set[str]) -> None:
        """Forget the pieces that show one of these entries or the state of one of these models."""
        for identity, piece in tuple(self.pieces.items()):
            if not (piece.name_set.isdisjoint(served_names) and piece.bases.isdisjoint(bases)):
                del self.pieces[identity]


class _Rows:
    """The encoded entries of one snapshot.

    A method that awaits something may be cancelled there. So it changes nothing before its last
    await.
    """

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        """The last one that was asked for."""
        self._rows: dict[str, _Row] = {}
        """By served name."""
        self._selections: dict[Patterns, _Selection] = {(): _Selection(None, SortedMap())}
        """The whole list, and what keys with these patterns may see."""
        self._bodies: dict[Patterns, bytes] = {}
        """Kept as long as the entries and `_states` are the same."""
        self._states: Mapping[str, State] = {}
        """The states that the bodies show, by model; IDLE models are left out."""
        self._activation: Activation | None = None
        """The last one with these states."""

    def kept_body(self, view: View, patterns: Patterns) -> bytes | None:
        """The body that was made before; None: it has to be made."""
        if view.snapshot is not self._snapshot or not self._is_current(view.activation):
            return None
        return self._bodies.get(patterns)

    def _is_current(self, activation: Activation) -> bool:
        if activation is not self._activation and _states_of(activation) == self._states:
            self._activation = activation
        return activation is self._activation

    async def follow(self, snapshot: Snapshot) -> None:
        """Encode what has changed since the last snapshot."""
        before = self._snapshot
        if snapshot is before:
            return
        encoder = msgspec.json.Encoder()
        changed = changed_served_names(before, snapshot)
        rows: dict[str, _Row] = {}
        for number, name in enumerate(changed, start=1):
            entry = snapshot.served.get(name)
            if entry is not None:
                encoded = b"," + encoder.encode(stateless_object(snapshot, entry))[:-1]
                rows[name] = _Row(encoded, bases_of(snapshot, entry))
            if number % _SLICE_ENTRIES == 0:
                await asyncio.sleep(0)
        self._snapshot = snapshot
        for name in changed:
            self._rows.pop(name, None)
        self._rows.update(rows)
        self._bodies.clear()
        self._follow_selections(snapshot, changed)

    def _follow_selections(self, snapshot: Snapshot, changed: list[str]) -> None:
        whole = self._selections[()]
        whole.names = snapshot.served
        if len(changed) > _SLICE_ENTRIES:
            whole.pieces.clear()
            self._selections = {(): whole}  # the others are made anew, in slices, when they are asked for
        names = frozenset(changed)
        for selection in self._selections.values():
            selection.drop_pieces(names, frozenset())
            if selection.key is not None:
                visible = {name: None for name in changed if name in self._rows and selection.key.may_use(name)}
                selection.names = selection.names.updated(visible, names - visible.keys())

    async def select(self, patterns: Patterns, key: ApiKey) -> None:
        """Find the names that a key with these patterns may see."""
        if patterns in self._selections:
            return
        visible: dict[str, None] = {}
        for number, name in enumerate(tuple(self._rows), start=1):
            if key.may_use(name):
                visible[name] = None
            if number % _SLICE_ENTRIES == 0:
                await asyncio.sleep(0)
        if len(self._selections) >= _BODIES_MAX:
            self._selections = {(): self._selections[()]}
            self._bodies.clear()
        self._selections[patterns] = _Selection(key, SortedMap.of(visible))

    async def body(self, patterns: Patterns, activation: Activation) -> bytes:
        """The list for these patterns, which must be selected."""
        if not self._is_current(activation):
            self._show(activation)
        body = self._bodies.get(patterns)
        if body is None:
            body = self._bodies[patterns] = await self._joined(self._selections[patterns], activation)
        return body

    def _show(self, activation: Activation) -> None:
        states = _states_of(activation)
        changed = {name for name, _ in self._states.items() ^ states.items()}
        for selection in self._selections.values():
            selection.drop_pieces(frozenset(), changed)
        self._activation, self._states = activation, states
        self._bodies.clear()

    async def _joined(self, selection: _Selection, activation: Activation) -> bytes:
        pieces: dict[int, _Piece] = {}
        for names in selection.names.key_runs():
            piece = selection.pieces.get(id(names))
            if piece is None or piece.names is not names:
                piece = self._piece(names, activation)
                await asyncio.sleep(0)
            pieces[id(names)] = piece
        selection.pieces = pieces
        joined = b"".join(piece.encoded for piece in pieces.values())
        return b"".join((_HEAD, joined[1:], _END))  # no comma before the first

    def _piece(self, names: tuple[str, ...], activation: Activation) -> _Piece:
        rows = [self._rows[name] for name in names]
        encoded = b"".join(
            part for row in rows for part in (row.encoded, _STATE_PIECES[state_of(activation, row.bases)])
        )
        bases = frozenset(base for row in rows for base in row.bases)
        return _Piece(names, frozenset(names), bases, encoded)


def _states_of(activation: Activation) -> Mapping[str, State]:
    return {name: model.state for name, model in activation.models.items() if model.state is not State.IDLE}
