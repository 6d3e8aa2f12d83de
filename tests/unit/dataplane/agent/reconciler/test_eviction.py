"""Which sleepers are evicted to make room."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.desired import application_name
from dataplane.agent.reconciler.actions import Delete, Deploy
from dataplane.agent.reconciler.eviction import Sleeper, evicted
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.resources import resources_of
from dataplane.agent.situation import Phase
from tests.unit.dataplane.agent.reconciler.situations import NOW, application, asleep, situation, sleeper

GPU = {"GPU": 1.0, "CPU": 1.0}
A, B, C = (Sleeper(name, GPU) for name in "abc")


def test_nothing_is_evicted_while_there_is_room() -> None:
    assert evicted([GPU], [A, B], {"GPU": 1.0, "CPU": 8.0}) == set()


def test_first_sleepers_are_evicted_and_no_more_than_needed() -> None:
    assert evicted([GPU], [A, B], {"CPU": 8.0}) == {"a"}
    assert evicted([{"GPU": 2.0}], [A, B, C], {"CPU": 8.0}) == {"a", "b"}
    assert evicted([{"GPU": 2.0}], [A, B, C], {"GPU": 1.0}) == {"a"}


def test_freed_resources_are_counted_once() -> None:
    assert evicted([GPU, GPU], [A, B, C], {"CPU": 8.0}) == {"a", "b"}
    assert evicted([GPU, GPU], [A, B, C], {"GPU": 1.0, "CPU": 8.0}) == {"a"}


def test_nothing_is_evicted_for_a_need_that_cannot_be_met() -> None:
    assert evicted([{"GPU": 8.0}], [A, B, C], {"GPU": 1.0}) == set()
    assert evicted([{"GPU": 8.0}, GPU], [A, B, C], {"CPU": 1.0}) == {"a"}, "the next need is still met"


def test_sleeper_without_the_missing_resource_stays() -> None:
    assert evicted([{"GPU": 1.0}], [Sleeper("cpu", {"CPU": 4.0}), A], {}) == {"a"}


def test_longest_unused_sleeper_is_evicted_for_a_new_application() -> None:
    old, young, wanted = sleeper("old"), sleeper("young"), sleeper("wanted")
    full = situation(
        *(old, young, wanted),
        applications=(asleep(old), asleep(young)),
        last_activity={"models/old": NOW - 9000, "models/young": NOW - 8000, "models/wanted": NOW},
        free={"CPU": 4.0},
    )
    assert plan(full).actions == (Delete(application_name(old)), Deploy(application_name(wanted), wanted))
    roomy = replace(full, free={"CPU": 4.0, "GPU": 1.0})
    assert plan(roomy).actions == (Deploy(application_name(wanted), wanted),)
    going = {sleeper.name: sleeper for sleeper in (asleep(old, Phase.DELETING), asleep(young))}
    assert plan(replace(full, applications=going)).actions == (Deploy(application_name(wanted), wanted),)


def test_sleeper_is_evicted_for_an_application_that_waits_for_room() -> None:
    old, wanted = sleeper("old"), sleeper("wanted")
    needs = resources_of(wanted.revision.spec)
    waits = application(wanted, Phase.STARTING, placed=False, created_at=NOW - 30, resources=needs)
    full = situation(
        *(old, wanted), applications=(asleep(old), waits), last_activity={"models/wanted": NOW}, free={"CPU": 4.0}
    )
    assert plan(full).actions == (Delete(application_name(old)),)
    for other in (replace(waits, placed=True), replace(waits, created_at=NOW - 5)):
        assert plan(replace(full, applications={**full.applications, waits.name: other})).actions == ()
