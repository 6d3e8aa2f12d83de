"""Which sleeping applications are deleted to make room for those that start. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from dataplane.agent.reconciler.actions import Deploy
from dataplane.agent.resources import Resources, added, missing, resources_of, subtracted
from dataplane.agent.situation import Application, Phase, Situation

_UNPLACED_S = 20.0
"""An application that has no placed replica after this time counts as waiting for room. Where there
is room, Ray places a replica within seconds."""


@dataclass(frozen=True, slots=True)
class Sleeper:
    """An application that may be evicted."""

    application: str
    resources: Resources
    """What its deletion frees."""


def waits_for_room(situation: Situation, application: Application) -> bool:
    """Whether Ray has found no room for any replica of an application."""
    return not application.placed and situation.now - application.created_at > _UNPLACED_S


def evicted_sleepers(
    situation: Situation, keep: Set[str], deploys: Iterable[Deploy], sleepers: Set[str]
) -> frozenset[str]:
    """Names of those of `sleepers` that have to go.

    Args:
        situation: The moment that is planned for.
        keep: Applications that are needed, awake. Those that wait for room come first.
        deploys: Applications that are about to be made.
        sleepers: Applications that may be evicted. The longest unused one goes first.
    """
    if not sleepers:
        return frozenset()
    applications = situation.applications
    waiting = sorted(
        (
            application
            for application in applications.values()
            if application.name in keep and waits_for_room(situation, application)
        ),
        key=lambda application: application.created_at,
    )
    needs = [
        *(application.resources for application in waiting),
        *(resources_of(deploy.entry.revision.spec) for deploy in deploys),
    ]
    if not needs:
        return frozenset()
    free = situation.free
    for application in applications.values():
        if application.phase is Phase.DELETING:
            free = added(free, application.resources)
    longest_unused_first = sorted(
        (applications[name] for name in sleepers),
        key=lambda application: situation.last_activity.get(application.model, application.created_at),
    )
    return evicted(
        needs, [Sleeper(application.name, application.resources) for application in longest_unused_first], free
    )


def evicted(needs: Iterable[Resources], sleepers: Iterable[Sleeper], free: Resources) -> frozenset[str]:
    """The fewest of the first `sleepers` whose deletion makes room for each of `needs` in turn.

    None is evicted for a need that all of them together could not meet. Resources are summed over
    the nodes of the cluster, so on several nodes what is free may still be in pieces that are too
    small.
    """
    left = dict(free)
    staying = list(sleepers)
    going: set[str] = set()
    for need in needs:
        chosen = _evicted_for(need, staying, left)
        if chosen is None:
            continue
        for sleeper in chosen:
            staying.remove(sleeper)
            going.add(sleeper.application)
            left = added(left, sleeper.resources)
        left = subtracted(left, need)
    return frozenset(going)


def _evicted_for(need: Resources, sleepers: Iterable[Sleeper], free: Resources) -> list[Sleeper] | None:
    """The sleepers to evict for one need. None: the need cannot be met."""
    left, chosen = dict(free), []
    for sleeper in sleepers:
        lacking = missing(need, left)
        if not lacking:
            break
        if any(sleeper.resources.get(name) for name in lacking):
            chosen.append(sleeper)
            left = added(left, sleeper.resources)
    return None if missing(need, left) else chosen
