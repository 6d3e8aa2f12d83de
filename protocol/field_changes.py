"""Which fields of two JSON objects differ. Pure.

The control plane compares snapshot entries with it; the command line compares registered with
declared resources.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Absence(enum.Enum):
    """The type of ABSENT."""

    ABSENT = "absent"


ABSENT: Final = Absence.ABSENT
"""Stands for a missing field; None is a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field that differs."""

    path: str
    """`spec.scaling.max_replicas`, `labels["a/b"]`, `targets[0].weight`."""
    before: object
    """A JSON value, or ABSENT."""
    after: object
    """A JSON value, or ABSENT."""


def field_changes(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[FieldChange, ...]:
    """The fields that differ, in the order of `after` and then of `before`.

    Objects are compared by field, lists of objects by item; any other list is one value. An object
    on one side only is listed field by field too.
    """
    return tuple(_of_mappings(before, after, ""))


def join(path: str, key: str) -> str:
    """The path of the field `key` below `path`."""
    if _PLAIN_KEY.fullmatch(key) is None:
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def _of_mappings(before: Mapping[str, object], after: Mapping[str, object], path: str) -> Iterator[FieldChange]:
    for key in (*after, *(key for key in before if key not in after)):
        yield from _of_values(before.get(key, ABSENT), after.get(key, ABSENT), join(path, key))


def _of_values(before: object, after: object, path: str) -> Iterator[FieldChange]:
    if _same(before, after):
        return
    if _is_object(before, after):
        yield from _of_mappings(_mapping(before), _mapping(after), path)
    elif _is_list_of_objects(before, after):
        befores, afters = _items(before), _items(after)
        for index in range(max(len(befores), len(afters))):
            yield from _of_values(_at(befores, index), _at(afters, index), f"{path}[{index}]")
    else:
        yield FieldChange(path=path, before=before, after=after)


def _same(before: object, after: object) -> bool:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() == after.keys() and all(_same(before[key], after[key]) for key in before)
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return len(before) == len(after) and all(map(_same, before, after))
    # In Python True == 1; in JSON they differ.
    return before == after and isinstance(before, bool) == isinstance(after, bool)


def _is_object(*sides: object) -> bool:
    there = [side for side in sides if side is not ABSENT]
    # An empty object has no fields to list, so it is one value.
    return all(isinstance(side, Mapping) for side in there) and any(there)


def _is_list_of_objects(*sides: object) -> bool:
    there = [side for side in sides if side is not ABSENT]
    return any(there) and all(
        isinstance(side, list | tuple) and all(isinstance(item, Mapping) for item in side) for side in there
    )


def _mapping(side: object) -> Mapping[str, object]:
    return side if isinstance(side, Mapping) else {}


def _items(side: object) -> Sequence[object]:
    return side if isinstance(side, list | tuple) else ()


def _at(items: Sequence[object], index: int) -> object:
    return items[index] if index < len(items) else ABSENT
