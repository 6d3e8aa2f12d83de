"""What changes for the applications that exist: deletion, scaling, sleep. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.desired import replica_bounds
from dataplane.agent.reconciler.actions import Delete, Rescale, Sleep, Wake
from dataplane.agent.situation import Application, Phase, Situation


def deletions(situation: Situation, keep: Set[str]) -> Iterable[Delete]:
    """Delete every application that is not in `keep`, as soon as no request depends on it."""
    serving = set(situation.serving.values())
    for name, application in situation.applications.items():
        if name in keep or application.phase is Phase.DELETING:
            continue
        if application.phase is Phase.FAILED or _is_released(situation, application, serving):
            yield Delete(name)


def rescales(situation: Situation, keep: Set[str], entries: Mapping[str, snapshot_pb2.ModelEntry]) -> Iterable[Rescale]:
    """Update every application in `keep` whose scaling differs from that of its entry.

    Args:
        situation: The moment that is planned for.
        keep: Applications that are needed, awake.
        entries: By application name: the entry whose scaling counts.
    """
    for name, entry in entries.items():
        if name in keep and situation.applications[name].replica_bounds != replica_bounds(entry.revision.spec.scaling):
            yield Rescale(name, entry)


def sleep_changes(situation: Situation, keep: Set[str], sleepers: Set[str]) -> Iterable[Sleep | Wake]:
    """Wake the applications in `keep`, and put those in `sleepers` to sleep.

    An application goes to sleep as soon as no request depends on it.
    """
    serving = set(situation.serving.values())
    for name, application in situation.applications.items():
        if name in keep and application.asleep:
            yield Wake(name)
        elif name in sleepers and not application.asleep and _is_released(situation, application, serving):
            yield Sleep(name)


def _is_released(situation: Situation, application: Application, serving: Set[str]) -> bool:
    """Whether no ingress replica sends requests to the application or waits for its answer."""
    if application.drain_overdue:
        return True
    if application.name in serving:
        return False  # the activation without it is still to be published
    seen = situation.ingress_sequence
    return application.in_use == 0 and (seen is None or seen >= application.left_sequence)
