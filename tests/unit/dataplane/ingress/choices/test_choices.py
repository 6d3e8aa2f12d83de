"""What requests go to, asked again and again, while views change."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from dataplane.ingress.choices.choices import Choices
from dataplane.ingress.choices.routes import Routes
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.snapshot import Message, Snapshot
from tests import views

CATALOG: list[Message] = [views.model("m"), views.adapter("m", "a"), views.model("n")]


def chosen(choices: Choices, snapshot: Snapshot, name: str, **headers: str) -> str:
    given = {key.replace("_", "-").encode(): value.encode() for key, value in headers.items()}
    return choices.choose(snapshot, name, headers=given, user=lambda: None).resource


def test_a_choice_of_an_old_snapshot_is_not_used() -> None:
    choices = Choices(Random(0))
    before = views.snapshot(*CATALOG)
    after = views.snapshot(views.model("n", served_name="m"), revision=8)
    for _ in range(2):
        assert chosen(choices, before, "m") == "models/m"
        assert chosen(choices, before, "m:a") == "models/m/adapters/a"
    for _ in range(2):
        assert chosen(choices, after, "m") == "models/n"
        with pytest.raises(openai_errors.ModelNotFound):
            chosen(choices, after, "m:a")
    assert chosen(choices, before, "m") == "models/m"  # of a request that began before


def test_the_targets_of_a_route_are_drawn_for_each_request() -> None:
    choices = Choices(Random(0))
    snapshot = views.snapshot(*CATALOG, views.route("r", {"models/m": 3, "models/n": 1}))
    taken = Counter(chosen(choices, snapshot, "r") for _ in range(400))
    assert 250 < taken["models/m"] < 350


def test_a_sticky_route_looks_at_each_requests_headers() -> None:
    choices = Choices(Random(0))
    route = views.route("r", {"models/m": 1, "models/n": 1}, sticky={"header": "x-session"})
    snapshot = views.snapshot(*CATALOG, route)
    taken = {session: {chosen(choices, snapshot, "r", x_session=session) for _ in range(5)} for session in "abcdefgh"}
    assert all(len(resources) == 1 for resources in taken.values())
    assert set[str]().union(*taken.values()) == {"models/m", "models/n"}


def test_the_candidate_of_a_rollout_gets_its_share() -> None:
    choices = Choices(Random(0))
    stable = views.with_candidate(views.model("m"), views.model("m", number=2), 25)
    snapshot = views.snapshot(stable, views.model("n"))
    taken = Counter(chosen(choices, snapshot, "m") for _ in range(400))
    assert 60 < taken["models/m/revisions/2"] < 140


def test_a_route_of_an_old_view_is_not_used() -> None:
    routes, snapshot = Routes(), views.snapshot(*CATALOG)
    old = views.view(snapshot, {"m": views.ready("http://a")})
    new = views.view(snapshot, {"m": views.ready("http://b", number=2)})
    first = routes.of(old, "models/m", "m")
    assert routes.of(old, "models/m", "m") is first
    assert routes.of(old, "models/m", "other name").served_name == "other name"
    second = routes.of(new, "models/m", "m")
    assert [endpoint.url for endpoint in second.activation.endpoints] == ["http://b"]
    assert second.answer_header == (b"x-broadsheet-model", b"models/m/revisions/2")
    with pytest.raises(openai_errors.NotServedHere):
        routes.of(views.view(views.snapshot(views.model("n"))), "models/m", "m")
