"""Which sleeping applications go, so that those that are starting have what they hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Resources = Mapping[str, float]
"""What a replica takes, by Ray's names: `CPU`, `GPU`, `memory` in bytes."""


@dataclass(frozen=True, slots=True)
class Sleeper:
    """An application that may go."""

    application: str
    resources: Resources


def giving_way(needs: Iterable[Resources], sleepers: Iterable[Sleeper], free: Resources) -> frozenset[str]:
    """The fewest applications, of the first in `sleepers`, whose going makes room for each of
    `needs` in its turn.

    None goes for a need that all of them together would not meet. Resources are added up over the
    nodes of the cluster, so with several nodes what is free may still be in pieces that are too
    small.
    """
    left = dict(free)
    staying = list(sleepers)
    going: set[str] = set()
    for need in needs:
        chosen = _chosen(need, staying, left)
        if chosen is None:
            continue
        for sleeper in chosen:
            staying.remove(sleeper)
            going.add(sleeper.application)
            left = added(left, sleeper.resources)
        left = added(left, {name: -amount for name, amount in need.items()})
    return frozenset(going)


def _chosen(need: Resources, sleepers: Iterable[Sleeper], free: Resources) -> list[Sleeper] | None:
    """Who goes for one need; None: it would not be met."""
    left, chosen = dict(free), []
    for sleeper in sleepers:
        missing = _missing(need, left)
        if not missing:
            break
        if any(sleeper.resources.get(name) for name in missing):
            chosen.append(sleeper)
            left = added(left, sleeper.resources)
    return None if _missing(need, left) else chosen


def _missing(need: Resources, free: Resources) -> list[str]:
    return [name for name, amount in need.items() if amount > free.get(name, 0.0)]


def added(to: Resources, more: Resources) -> dict[str, float]:
    """The sum of both."""
    return {name: to.get(name, 0.0) + more.get(name, 0.0) for name in {*to, *more}}
