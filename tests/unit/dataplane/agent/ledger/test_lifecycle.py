"""The tables of transitions: every event in every state."""

from __future__ import annotations

import pytest

from dataplane.agent.ledger.lifecycle import (
    ROUTINGS,
    STAGES,
    Event,
    Ignored,
    IllegalTransition,
    Routing,
    Stage,
    follow,
    follow_step,
)

STEPS = {Event.DEPLOYED, Event.ADOPTED, Event.TAKEN_ON, Event.DELETED}
"""What the agent does to the life of an application."""
REPORTS = {Event.READY, Event.FAILED, Event.GONE}
"""What others report about it."""

LEGAL = {
    (Stage.ABSENT, Event.DEPLOYED): Stage.REQUESTED,
    (Stage.ABSENT, Event.ADOPTED): Stage.ADOPTED,
    (Stage.REQUESTED, Event.TAKEN_ON): Stage.STARTING,
    (Stage.REQUESTED, Event.READY): Stage.RUNNING,
    (Stage.REQUESTED, Event.FAILED): Stage.FAILED,
    (Stage.ADOPTED, Event.READY): Stage.RUNNING,
    (Stage.ADOPTED, Event.FAILED): Stage.FAILED,
    (Stage.ADOPTED, Event.DELETED): Stage.DELETING,
    (Stage.ADOPTED, Event.GONE): Stage.ABSENT,
    (Stage.STARTING, Event.READY): Stage.RUNNING,
    (Stage.STARTING, Event.FAILED): Stage.FAILED,
    (Stage.STARTING, Event.DELETED): Stage.DELETING,
    (Stage.STARTING, Event.GONE): Stage.ABSENT,
    (Stage.RUNNING, Event.TAKEN_ON): Stage.RUNNING,
    (Stage.RUNNING, Event.DELETED): Stage.DELETING,
    (Stage.RUNNING, Event.GONE): Stage.ABSENT,
    (Stage.FAILED, Event.TAKEN_ON): Stage.FAILED,
    (Stage.FAILED, Event.READY): Stage.RUNNING,
    (Stage.FAILED, Event.DELETED): Stage.DELETING,
    (Stage.FAILED, Event.GONE): Stage.ABSENT,
    (Stage.DELETING, Event.GONE): Stage.ABSENT,
}


@pytest.mark.parametrize(("stage", "event"), LEGAL, ids=lambda value: value.value)
def test_legal_event_leads_to_the_next_stage(stage: Stage, event: Event) -> None:
    assert follow(STAGES, "app", stage, event) is LEGAL[stage, event]


@pytest.mark.parametrize("event", sorted(REPORTS, key=str), ids=lambda event: event.value)
@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.value)
def test_report_of_others_is_never_an_error_and_is_ignored_with_a_reason(stage: Stage, event: Event) -> None:
    after = follow(STAGES, "app", stage, event)
    if (stage, event) not in LEGAL:
        assert isinstance(after, Ignored)
        assert after.reason


@pytest.mark.parametrize("event", sorted(STEPS, key=str), ids=lambda event: event.value)
@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.value)
def test_step_of_the_agent_that_is_not_legal_raises_and_names_the_application(stage: Stage, event: Event) -> None:
    if (stage, event) in LEGAL:
        return
    with pytest.raises(IllegalTransition, match=f"app: {event.value} is not possible while it is {stage.value}"):
        follow_step(STAGES, "app", stage, event)


def test_ignored_report_is_an_error_where_a_step_is_expected() -> None:
    with pytest.raises(IllegalTransition):
        follow_step(STAGES, "app", Stage.RUNNING, Event.FAILED)


def test_every_stage_can_end_but_that_of_a_running_call() -> None:
    ends = {stage for stage in Stage if STAGES[stage].get(Event.GONE) is Stage.ABSENT}
    assert set(Stage) - ends == {Stage.ABSENT, Stage.REQUESTED}


def test_an_application_joins_an_activation_and_leaves_it_and_may_join_again() -> None:
    routing = Routing.NEVER
    for event in (Event.JOINED, Event.LEFT, Event.JOINED, Event.LEFT):
        routing = follow_step(ROUTINGS, "app", routing, event)
    assert routing is Routing.LEFT
    for routing, event in ((Routing.NEVER, Event.LEFT), (Routing.LEFT, Event.LEFT), (Routing.JOINED, Event.JOINED)):
        with pytest.raises(IllegalTransition):
            follow_step(ROUTINGS, "app", routing, event)
