"""How many starts are under way at once, and whose turn is next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.desired import application_name
from dataplane.agent.giving_up import Failure
from dataplane.agent.reconciler.actions import Deploy, Plan
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.reconciler.starts import StartQueue
from dataplane.agent.situation import Application, Asked, Phase, Situation, StartLimits
from dataplane.snapshot.activation import START_QUEUED, State
from tests import views
from tests.unit.dataplane.agent.reconciler.situations import NOW, application, entry, situation, warmed


def asking(by_model: dict[str, Asked], *, total: int = 4, per_caller: int = 2) -> Situation:
    """Models that are asked for, by model id."""
    return situation(
        *(entry(model) for model in by_model),
        in_flight={f"models/{model}": 1 for model in by_model},
        last_activity={f"models/{model}": NOW for model in by_model},
        asked={f"models/{model}": asked for model, asked in by_model.items()},
        start_limits=StartLimits(total=total, per_caller=per_caller),
    )


def by(caller: str, *models: str, since: float = NOW) -> dict[str, Asked]:
    """Models that one caller asks for, one second after the other."""
    return {model: Asked(since=since + number, callers=frozenset({caller})) for number, model in enumerate(models)}


def begun(made: Plan) -> list[str]:
    """Ids of the models that the plan deploys."""
    return [action.entry.name.removeprefix("models/") for action in made.actions if isinstance(action, Deploy)]


def starting(model: str | snapshot_pb2.ModelEntry, **changes: object) -> Application:
    of = entry(model) if isinstance(model, str) else model
    return application(of, Phase.STARTING, created_at=NOW, **changes)


def with_applications(at: Situation, *applications: Application) -> Situation:
    return replace(at, applications={each.name: each for each in applications})


def test_a_caller_that_asks_for_every_model_starts_a_few_at_once() -> None:
    models = [f"m{number:03}" for number in range(200)]
    made = plan(asking(by("greedy", *models), total=16, per_caller=8))
    assert begun(made) == models[:8]
    assert {activation.state for activation in made.models.values()} == {State.DEPLOYING}
    waiting = [name for name, activation in made.models.items() if activation.reason == START_QUEUED]
    assert waiting == [f"models/{model}" for model in models[8:]]
    assert made.models["models/m199"].message == (
        "Its start is queued behind those of other models; 16 may be under way at once, and 8 of one caller."
    )
    assert made.models["models/m199"].application == ""


def test_another_callers_model_starts_although_one_asked_for_all_before() -> None:
    both = by("greedy", "a", "b", "c", "d", since=NOW - 100) | by("modest", "z")
    assert begun(plan(asking(both))) == ["a", "z", "b"]


def test_starts_under_way_count_and_the_next_one_begins_when_one_has_ended() -> None:
    wanted = asking(by("greedy", "a", "b", "c"))
    under_way = with_applications(wanted, starting("a"), starting("b"))
    made = plan(under_way)
    assert begun(made) == []
    assert [made.models[f"models/{model}"].reason for model in "abc"] == ["", "", START_QUEUED]
    assert begun(plan(with_applications(wanted, application(entry("a")), starting("b")))) == ["c"]


def test_the_bound_of_the_data_plane_holds_over_all_callers_in_fair_turns() -> None:
    many = by("x", "x1", "x2", since=NOW - 9) | by("y", "y1", "y2", since=NOW - 5) | by("z", "z1", "z2")
    assert begun(plan(asking(many, total=3))) == ["x1", "y1", "z1"]


def test_a_model_that_two_callers_ask_for_starts_when_one_of_them_may() -> None:
    shared = {"s": Asked(since=NOW, callers=frozenset({"greedy", "modest"}))}
    wanted = asking(by("greedy", "a", "b", "c", since=NOW - 9) | shared)
    assert begun(plan(with_applications(wanted, starting("a"), starting("b")))) == ["s"]


def test_models_that_run_without_a_request_start_at_once_and_do_not_count() -> None:
    boot = [entry(f"boot{number}", min_replicas=1) for number in range(20)]
    warm = warmed(NOW + 60, entry("warm"))
    wanted = asking(by("k", "a", "b", "c"))
    made = plan(replace(wanted, snapshot=views.snapshot(*boot, warm, *(entry(model) for model in "abc"))))
    assert len(made.actions) == 20 + 1 + 2
    assert made.models["models/c"].reason == START_QUEUED
    at_boot = with_applications(wanted, *(starting(model) for model in boot))
    made = plan(replace(at_boot, snapshot=views.snapshot(*boot, *(entry(model) for model in "abc"))))
    assert begun(made) == ["a", "b"]


def test_a_new_revision_of_a_model_that_answers_does_not_wait() -> None:
    old, new = application(entry("a")), entry("a", number=2, args={"start_up_s": 1})
    wanted = replace(asking(by("k", "a", "b"), total=1), serving={"models/a": old.name})
    made = plan(replace(with_applications(wanted, old), snapshot=views.snapshot(new, entry("b"))))
    assert sorted(begun(made)) == ["a", "b"]


def test_a_failed_model_is_tried_again_in_its_turn_and_stays_failed() -> None:
    failure = Failure(count=1, reason="OUT_OF_MEMORY", message="", retry_at=NOW - 1)
    wanted = replace(asking(by("k", "a", "b", "c")), failures={application_name(entry("c")): failure})
    made = plan(wanted)
    assert begun(made) == ["a", "b"]
    assert (made.models["models/c"].state, made.models["models/c"].reason) == (State.FAILED, "OUT_OF_MEMORY")


def test_models_without_room_keep_only_so_many_others_from_starting() -> None:
    large = [f"large{number}" for number in range(8)]
    wanted = asking(by("k", *large, "small"), total=4, per_caller=4)

    def stuck(count: int) -> Situation:
        return with_applications(
            wanted, *(replace(starting(model), placed=False, created_at=NOW - 60) for model in large[:count])
        )

    assert begun(plan(stuck(4))) == large[4:]
    assert begun(plan(stuck(8))) == ["small"]
    young = with_applications(wanted, *(replace(starting(model), placed=False) for model in large[:4]))
    assert begun(plan(young)) == []


def test_a_start_queue_of_thousands_is_planned_quickly(looks: list[int]) -> None:
    models = [f"m{number:04}" for number in range(2000)]
    at = asking({model: Asked(since=NOW) for model in models})
    plan(at)
    assert len(looks) <= 3 * len(models)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the looks at who asks for a model."""
    calls: list[int] = []
    looked_up = StartQueue._asked

    def counted(self: StartQueue, name: str) -> Asked:
        calls.append(1)
        return looked_up(self, name)

    monkeypatch.setattr(StartQueue, "_asked", counted)
    return calls


def test_a_caller_that_is_not_known_is_one_caller() -> None:
    unknown = {model: Asked(since=NOW) for model in "abc"}
    assert begun(plan(asking(unknown))) == ["a", "b"]


def test_a_pin_and_its_model_that_share_an_application_start_once() -> None:
    model = entry("a")
    pin = views.pinned(model)
    wanted = asking(by("k", "a", "a/revisions/1", "b"))
    made = plan(replace(wanted, snapshot=views.snapshot(model, pin, entry("b"))))
    assert begun(made) == ["a", "b"]
    assert [activation.reason for activation in made.models.values()] == ["", "", ""]
