"""Makes a failing plan smaller, as long as it fails in the same way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.plan import Event, Plan
from tests.simulation.runner import Plant, run

RUNS_MAX = 400
"""Runs that a shrink may take: about ten seconds."""


def shrink(plan: Plan, *, plant: Plant = contextlib.nullcontext, runs_max: int = RUNS_MAX) -> Plan:
    """The smallest plan that was found, with the same violation.

    Args:
        plan: It fails.
        plant: Puts a fault into the code under test.
        runs_max: Runs that it may take.
    """
    violation = run(plan, plant=plant).violation
    assert violation is not None, "a plan that fails is made smaller"
    runs = 0
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(plan):
            if runs == runs_max:
                return plan
            runs += 1
            found = run(candidate, plant=plant).violation
            if found is not None and found.invariant == violation.invariant:
                plan, is_smaller = candidate, True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with less in them, the smallest first."""
    events = plan.events
    size = len(events)
    while size > 0:
        for first in range(0, len(events), size):
            yield replace(plan, events=events[:first] + events[first + size :])
        size //= 2
    if plan.data_planes > 1:
        yield replace(plan, data_planes=plan.data_planes - 1)
    if plan.control_planes > 1:
        yield replace(plan, control_planes=plan.control_planes - 1)
    if plan.replicas > 1:
        yield replace(plan, replicas=plan.replicas - 1)
    if plan.small:
        yield replace(plan, small=())
    for index, event in enumerate(events):
        if event.kind == "commit" and event.arguments[-1] != 1:
            single = Event(at_s=event.at_s, kind=event.kind, arguments=(*event.arguments[:-1], 1))
            yield replace(plan, events=(*events[:index], single, *events[index + 1 :]))
