"""A sorted map that never changes, in blocks that successive versions share. Pure.

Keys and values lie in blocks of a few hundred. An update copies the blocks that it touches, and the
list of blocks. What differs between two versions shows in the blocks that they do not share.

With n keys and blocks of `BLOCK_KEYS`, b = n / BLOCK_KEYS:

| operation           | cost                                                                      |
|---------------------|---------------------------------------------------------------------------|
| `get`, `in`         | O(log n): two binary searches, about 1 µs at 100,000 keys                 |
| `updated`, k keys   | O(k · BLOCK_KEYS + b): copies of pointers, about 20 µs for one key        |
| `changed_keys`      | O(b + touched blocks · BLOCK_KEYS)                                        |
| iteration, `of`     | O(n)                                                                      |
| `items_from`        | O(log n) to begin                                                         |
| memory              | 16 bytes for each key, beside key and value                               |

A hash trie (`rpds`) takes 176 bytes for each key, has no order, and does not show what differs.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Collection, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import Any, Generic, TypeVar, cast, overload

_K = TypeVar("_K")
_V = TypeVar("_V")
_T = TypeVar("_T")

_MISSING = object()

BLOCK_KEYS = 256
"""Keys of a block when it is made. It is split when it has twice as many. Smaller blocks make a
longer list of blocks, which every update copies."""
_REBUILD_SHARE = 4
"""With more than one in so many keys touched, all blocks are made anew, which costs less."""
_SPARSE_BLOCKS = 8
"""Blocks that may be too many, for their keys, before all are made anew."""


class _Block(Generic[_K, _V]):
    """A run of keys with their values. Never changed, because versions share it."""

    __slots__ = ("keys", "values")

    def __init__(self, keys: tuple[_K, ...], values: tuple[_V, ...]) -> None:
        self.keys = keys
        self.values = values


class SortedMap(Mapping[_K, _V]):
    """A mapping in the order of its keys, which must be comparable with each other.

    Invariants: no block is empty; keys increase strictly, within blocks and from one to the next;
    `_firsts` holds the first key of each block.
    """

    __slots__ = ("_blocks", "_firsts", "_length")

    def __init__(
        self, blocks: list[_Block[_K, _V]] | None = None, firsts: list[Any] | None = None, length: int = 0
    ) -> None:
        """For this module. Others call `of`, or make an empty map."""
        self._blocks = blocks or []
        self._firsts = firsts or []
        self._length = length

    @classmethod
    def of(cls, content: Mapping[_K, _V] | Iterable[tuple[_K, _V]] = ()) -> SortedMap[_K, _V]:
        """A map of this content, which may be in any order."""
        pairs: dict[Any, _V] = dict(content)
        keys = sorted(pairs)
        blocks = _blocks_of(keys, [pairs[key] for key in keys])
        return cls(blocks, [block.keys[0] for block in blocks], len(keys))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_K]:
        for block in self._blocks:
            yield from block.keys

    def values(self) -> ValuesView[_V]:
        return _Values(self)

    def items(self) -> ItemsView[_K, _V]:
        return _Items(self)

    def __getitem__(self, key: _K) -> _V:
        found = self.get(key, _MISSING)
        if found is _MISSING:
            raise KeyError(key)
        return cast(_V, found)

    @overload
    def get(self, key: _K, /) -> _V | None: ...
    @overload
    def get(self, key: _K, /, default: _V | _T) -> _V | _T: ...
    def get(self, key: _K, /, default: object = None) -> object:
        """The value of a key. The same as of every mapping, at half the calls: requests use it."""
        at = bisect_right(self._firsts, key) - 1
        if at >= 0:
            block = self._blocks[at]
            keys: tuple[Any, ...] = block.keys
            index = bisect_left(keys, key)
            if index < len(keys) and keys[index] == key:
                return block.values[index]
        return default

    def __repr__(self) -> str:
        return f"SortedMap({dict(self)!r})"

    __hash__ = None  # type: ignore[assignment]  # as of every mapping: values may be mutable

    def key_runs(self) -> Iterator[tuple[_K, ...]]:
        """All keys in order, block by block.

        A block in which no key has come or gone is the same tuple in both versions.
        """
        return (block.keys for block in self._blocks)

    def value_at(self, index: int) -> _V:
        """The value at a place of the order, from 0; in time proportional to the number of blocks.

        Raises:
            IndexError: There are not so many.
        """
        if index >= 0:
            for block in self._blocks:
                if index < len(block.keys):
                    return block.values[index]
                index -= len(block.keys)
        raise IndexError(index)

    def items_from(self, key: _K) -> Iterator[tuple[_K, _V]]:
        """The items from `key` on, which need not be there, in order."""
        at = max(0, bisect_right(self._firsts, key) - 1)
        if at < len(self._blocks):
            block = self._blocks[at]
            keys: tuple[Any, ...] = block.keys
            begin = bisect_left(keys, key)
            yield from zip(block.keys[begin:], block.values[begin:], strict=True)
            for block in self._blocks[at + 1 :]:
                yield from zip(block.keys, block.values, strict=True)

    def items_before(self, key: _K) -> Iterator[tuple[_K, _V]]:
        """The items before `key`, which need not be there, from the last one back."""
        at = bisect_left(self._firsts, key) - 1
        if at >= 0:
            block = self._blocks[at]
            keys: tuple[Any, ...] = block.keys
            end = bisect_left(keys, key)
            yield from zip(reversed(block.keys[:end]), reversed(block.values[:end]), strict=True)
            for block in reversed(self._blocks[:at]):
                yield from zip(reversed(block.keys), reversed(block.values), strict=True)

    def updated(self, values: Mapping[_K, _V], removed: Collection[_K] = ()) -> SortedMap[_K, _V]:
        """A map with `values` set, and without those `removed` that are not set.

        Removing what is not there does nothing. The same map is returned if nothing is to be done.
        """
        touched: list[Any] = sorted({*values, *removed})
        if not touched:
            return self
        if _REBUILD_SHARE * len(touched) > self._length:
            return self._rebuilt(values, removed)
        blocks, firsts, length = self._blocks[:], self._firsts[:], self._length
        end = len(touched)
        while end:  # from the last block on, so that the places of those before it stay the same
            at = max(0, bisect_right(self._firsts, touched[end - 1]) - 1)
            begin = bisect_left(touched, self._firsts[at], 0, end) if at else 0
            edited = _edited(self._blocks[at], touched[begin:end], values)
            blocks[at : at + 1] = edited
            firsts[at : at + 1] = [block.keys[0] for block in edited]
            length += sum(len(block.keys) for block in edited) - len(self._blocks[at].keys)
            end = begin
        if len(blocks) > _SPARSE_BLOCKS + 4 * length // BLOCK_KEYS:
            return self._rebuilt(values, removed)
        return SortedMap(blocks, firsts, length)

    def _rebuilt(self, values: Mapping[_K, _V], removed: Collection[_K]) -> SortedMap[_K, _V]:
        pairs = dict(self.items())
        for key in removed:
            pairs.pop(key, None)
        pairs.update(values)
        return SortedMap.of(pairs)

    def changed_keys(self, before: SortedMap[_K, _V]) -> list[_K]:
        """Keys that only one of the two has, or whose values are not the same object, in order."""
        if before is self:
            return []
        old_blocks, new_blocks = _unshared(before._blocks, self._blocks)
        if [block.keys for block in old_blocks] == [block.keys for block in new_blocks]:
            return [
                key
                for old_block, block in zip(old_blocks, new_blocks, strict=True)
                for key, old_value, value in zip(block.keys, old_block.values, block.values, strict=True)
                if old_value is not value
            ]
        old, new = _content(old_blocks), _content(new_blocks)
        missing = object()
        found: list[Any] = [key for key, value in new.items() if old.get(key, missing) is not value]
        found += [key for key in old if key not in new]
        found.sort()
        return found


class _Items(ItemsView[_K, _V]):
    """The items, block by block, and not by looking up each key."""

    _mapping: SortedMap[_K, _V]

    def __iter__(self) -> Iterator[tuple[_K, _V]]:
        for block in self._mapping._blocks:
            yield from zip(block.keys, block.values, strict=True)


class _Values(ValuesView[_V]):
    _mapping: SortedMap[Any, _V]

    def __iter__(self) -> Iterator[_V]:
        for block in self._mapping._blocks:
            yield from block.values


def _unshared(
    old: list[_Block[_K, _V]], new: list[_Block[_K, _V]]
) -> tuple[list[_Block[_K, _V]], list[_Block[_K, _V]]]:
    """The blocks that only one of two versions has."""
    # Most of them are equal from both ends on, which the first two steps find at the speed of C.
    same = [*map(operator.is_, old, new), False].index(False)
    old, new = old[same:], new[same:]
    same = [*map(operator.is_, reversed(old), reversed(new)), False].index(False)
    old, new = old[: len(old) - same], new[: len(new) - same]
    shared = {id(block) for block in old} & {id(block) for block in new}
    return [block for block in old if id(block) not in shared], [block for block in new if id(block) not in shared]


def _content(blocks: list[_Block[_K, _V]]) -> dict[_K, _V]:
    found: dict[_K, _V] = {}
    for block in blocks:
        found.update(zip(block.keys, block.values, strict=True))
    return found


def _blocks_of(keys: list[_K], values: list[_V]) -> list[_Block[_K, _V]]:
    return [
        _Block(tuple(keys[at : at + BLOCK_KEYS]), tuple(values[at : at + BLOCK_KEYS]))
        for at in range(0, len(keys), BLOCK_KEYS)
    ]


def _edited(block: _Block[_K, _V], touched: list[Any], values: Mapping[_K, _V]) -> list[_Block[_K, _V]]:
    """The blocks that replace a block: none, one, or several if it has grown too large."""
    keys: Sequence[Any] = block.keys
    contents = list(block.values)
    changed = False
    for key in touched:
        index = bisect_left(keys, key)
        is_there = index < len(keys) and keys[index] == key
        if is_there and key in values:
            changed = changed or contents[index] is not values[key]
            contents[index] = values[key]
        elif is_there or key in values:
            changed = True
            # Keys are copied only if one comes or goes. Copying touches each of them in memory.
            keys = keys if isinstance(keys, list) else list(keys)
            keys[index : index + is_there] = [] if is_there else [key]
            contents[index : index + is_there] = [] if is_there else [values[key]]
    if not changed:
        return [block]
    if not isinstance(keys, list):
        return [_Block(block.keys, tuple(contents))]
    if len(keys) < 2 * BLOCK_KEYS:
        return [_Block(tuple(keys), tuple(contents))] if keys else []
    return _blocks_of(keys, contents)
