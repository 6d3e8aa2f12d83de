"""Whether a model has to have a running application. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.situation import Application, Situation


def models_to_plan(situation: Situation, models_with_applications: Iterable[str]) -> list[str]:
    """Names of the models and pinned revisions that a plan has to look at, in order.

    A catalog may hold many thousand models that are not in use. A plan costs nothing for those.
    """
    snapshot = situation.snapshot
    names = {*snapshot.wanted_unasked, *situation.last_activity, *situation.in_flight}
    for model in models_with_applications:
        names.add(model)
        names.update(snapshot.revisions.get(model, ()))
    return sorted(name for name in names if name in snapshot.deployable)


def is_wanted_unasked(situation: Situation, entry: snapshot_pb2.ModelEntry) -> bool:
    """Whether a model has to run without a request: operators and publishers want it to."""
    until = entry.warm_until
    return entry.revision.spec.scaling.min_replicas > 0 or situation.time_of_day < until.seconds + until.nanos * 1e-9


def is_wanted(situation: Situation, entry: snapshot_pb2.ModelEntry, target: Application | None) -> bool:
    """Whether the application of `entry` has to run now.

    Args:
        situation: The moment that is planned for.
        entry: A model or pinned revision.
        target: The application of `entry`, if there is one.
    """
    scaling = entry.revision.spec.scaling
    if is_wanted_unasked(situation, entry) or situation.in_flight.get(entry.name, 0) > 0:
        return True
    keep_s = scaling.downscale_to_zero_delay.ToTimedelta().total_seconds()
    since = situation.last_activity.get(entry.name, float("-inf"))
    if target is not None and target.ready_at is not None:
        since = max(since, target.ready_at)
    elif target is not None:
        # It is still starting. The caller may have given up, and may come back until the deadline
        # for cold starts has passed.
        since = max(since, target.created_at)
        keep_s = max(keep_s, entry.revision.spec.admission.cold_start_timeout.ToTimedelta().total_seconds())
    return situation.now - since < keep_s
