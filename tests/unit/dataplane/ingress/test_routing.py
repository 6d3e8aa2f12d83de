from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from dataplane.ingress.routing import AFFINITY_SLACK_REQUESTS, Choice, Failing, NotFound, choose_endpoint, resolve
from dataplane.ingress.routing import choose as choose_target
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.snapshot.activation import Endpoint, ModelActivation, State
from dataplane.snapshot.snapshot import Message, Snapshot
from tests import views

CATALOG = views.snapshot(
    views.model("smol"),
    views.model("big", served_name="org/Big-1:latest"),
    views.adapter("smol", "pirate"),
    views.adapter("big", "law", served_name="law"),
)


@pytest.mark.parametrize(
    ("served_name", "model", "adapter"),
    [
        ("smol", "models/smol", None),
        ("org/Big-1:latest", "models/big", None),
        ("smol:pirate", "models/smol", "models/smol/adapters/pirate"),
        ("law", "models/big", "models/big/adapters/law"),
    ],
)
def test_a_served_name_is_looked_up(served_name: str, model: str, adapter: str | None) -> None:
    choice = chosen(CATALOG, served_name)
    assert isinstance(choice, Choice)
    assert (choice.route, choice.fallbacks) == ("", ())
    route = resolve(views.view(CATALOG), choice.resource, served_name)
    assert route is not None
    assert route.model.name == model
    assert (route.adapter.name if route.adapter else None) == adapter


@pytest.mark.parametrize(
    "served_name", ["", "Smol", "smol:", "smol:nobody", "big", "models/smol", "smol:pirate@abab", "org/Big-1"]
)
def test_names_are_not_parsed_or_guessed(served_name: str) -> None:
    assert chosen(CATALOG, served_name) == NotFound(served_name=served_name)


def test_an_engine_side_adapter_name_is_not_a_served_name() -> None:
    name = engine_adapter_name(CATALOG.adapters["models/smol/adapters/pirate"])
    assert name == "smol:pirate@" + "ab" * 16
    assert isinstance(chosen(CATALOG, name), NotFound)


def test_different_weights_have_different_engine_side_names() -> None:
    assert engine_adapter_name(views.adapter("m", "a", digest=b"\x01" * 32)) != engine_adapter_name(
        views.adapter("m", "a", digest=b"\x02" * 32)
    )


def test_a_model_without_activation_is_idle() -> None:
    route = resolve(views.view(CATALOG), "models/smol", "smol")
    assert route is not None
    assert route.activation.state is State.IDLE


def test_the_answering_revision_is_that_of_the_activation() -> None:
    degraded = ModelActivation(state=State.DEGRADED, revision_number=4, endpoints=views.endpoints("http://a"))
    route = resolve(views.view(CATALOG, {"smol": degraded}), "models/smol/adapters/pirate", "smol:pirate")
    assert route is not None
    assert route.model_revision_name == "models/smol/revisions/4"


def chosen(catalog: Snapshot, served_name: str, *, key: str | None = None, point: float = 0.0) -> Choice | NotFound:
    return choose_target(catalog, served_name, sticky_key=lambda sticky: key, draw=lambda: point)


def resource(catalog: Snapshot, *, key: str | None = None, point: float = 0.0) -> str:
    """The resource that a request for the route `r` goes to."""
    choice = chosen(catalog, "r", key=key, point=point)
    assert isinstance(choice, Choice)
    return choice.resource


def test_requests_are_split_by_weight() -> None:
    catalog = views.snapshot(views.route("r", {"models/a": 90, "models/b": 0, "models/c": 10}))
    taken = Counter(resource(catalog, point=index / 1000) for index in range(1000))
    assert taken == {"models/a": 900, "models/c": 100}
    assert resource(catalog, point=1 - 2**-53) == "models/c"


def sticky_route(**weights: int) -> Snapshot:
    targets = {f"models/{name}": weight for name, weight in weights.items()}
    return views.snapshot(views.route("r", targets, sticky={"user": True}))


def test_a_sticky_caller_always_gets_the_same_target() -> None:
    catalog = sticky_route(a=50, b=50)
    for key in ("ann", "bob", ""):
        assert len({resource(catalog, key=key, point=point / 10) for point in range(10)}) == 1
    assert len({resource(catalog, point=point / 10) for point in range(10)}) == 2  # without a key the target is random


def test_callers_are_split_by_weight() -> None:
    catalog = sticky_route(a=90, b=10)
    taken = Counter(resource(catalog, key=f"user {index}") for index in range(5000))
    assert 400 < taken["models/b"] < 600


def test_a_change_of_weights_moves_few_callers_and_only_to_the_heavier_target() -> None:
    keys = [f"user {index}" for index in range(5000)]
    before = {key: resource(sticky_route(a=90, b=10), key=key) for key in keys}
    after = {key: resource(sticky_route(a=80, b=20), key=key) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert 400 < len(moved) < 600
    assert {after[key] for key in moved} == {"models/b"}
    three = {key: resource(sticky_route(a=90, b=10, c=25), key=key) for key in keys}
    assert {three[key] for key in keys if three[key] != before[key]} == {"models/c"}


def test_callers_of_two_routes_are_split_independently() -> None:
    first = sticky_route(a=50, b=50)
    other = views.snapshot(views.route("s", {"models/a": 50, "models/b": 50}, sticky={"user": True}))
    keys = [f"user {index}" for index in range(1000)]
    choices = [chosen(other, "s", key=key) for key in keys]
    same = sum(
        isinstance(choice, Choice) and choice.resource == resource(first, key=key)
        for choice, key in zip(choices, keys, strict=True)
    )
    assert 400 < same < 600


def test_fallbacks_are_taken_in_order_for_their_conditions() -> None:
    fallbacks = {
        "models/full": ["QUEUE_FULL"],
        "models/gone": ["UNAVAILABLE"],
        "models/any": ["UNAVAILABLE", "QUEUE_FULL"],
    }
    choice = chosen(views.snapshot(views.route("r", {"models/a": 1}, fallbacks=fallbacks)), "r")
    assert isinstance(choice, Choice)
    full, gone = choice.after(Failing.QUEUE_FULL), choice.after(Failing.UNAVAILABLE)
    assert full is not None
    assert gone is not None
    assert (full.resource, gone.resource) == ("models/full", "models/gone")
    last = gone.after(Failing.QUEUE_FULL)
    assert last is not None
    assert (last.resource, last.route, last.after(Failing.QUEUE_FULL)) == ("models/any", "routes/r", None)


def test_a_fallback_to_the_failed_resource_is_skipped() -> None:
    catalog = views.snapshot(views.route("r", {"models/a": 1}, fallbacks={"models/a": ["UNAVAILABLE"]}))
    choice = chosen(catalog, "r")
    assert isinstance(choice, Choice)
    assert choice.after(Failing.UNAVAILABLE) is None


def test_a_pinned_revision_is_a_model_of_its_own() -> None:
    old = views.model("smol", number=2)
    catalog = views.snapshot(views.model("smol", number=3), views.pinned(old))
    activations = {"smol": views.ready("http://3", number=3), "smol/revisions/2": views.ready("http://2", number=2)}
    for name, url in (("models/smol", "http://3"), ("models/smol/revisions/2", "http://2")):
        route = resolve(views.view(catalog, activations), name, "r")
        assert route is not None
        assert route.activation.endpoints[0].url == url
        assert route.model_revision_name == f"models/smol/revisions/{url[-1]}"
    assert resolve(views.view(catalog), "models/smol/revisions/1", "r") is None


def rolling_out(percent: int, *others: Message) -> Snapshot:
    return views.snapshot(views.with_candidate(views.model("r"), views.model("r", number=2), percent), *others)


def test_a_candidate_gets_its_share_and_may_fall_back_to_the_stable_revision() -> None:
    catalog = rolling_out(20)
    taken = Counter(resource(catalog, point=index / 1000) for index in range(1000))
    assert taken == {"models/r": 800, "models/r/revisions/2": 200}
    choice = chosen(catalog, "r", point=0.9)
    assert isinstance(choice, Choice)
    for failing in Failing:
        after = choice.after(failing)
        assert after is not None
        assert (after.resource, after.after(failing)) == ("models/r", None)


def test_a_routes_share_is_split_again_by_the_rollout_of_its_target() -> None:
    route = views.route("chat", {"models/r": 1}, fallbacks={"models/b": ["UNAVAILABLE"]}, sticky={"user": True})
    catalog = rolling_out(20, route)
    choices = [chosen(catalog, "chat", key=f"user {index}") for index in range(2000)]
    taken = Counter(choice.resource for choice in choices if isinstance(choice, Choice))
    assert 300 < taken["models/r/revisions/2"] < 500
    assert chosen(catalog, "chat", key="ann") == chosen(catalog, "chat", key="ann", point=0.99)
    canary = next(choice for choice in choices if isinstance(choice, Choice) and choice.resource != "models/r")
    assert [fallback.resource for fallback in canary.fallbacks] == ["models/r", "models/b"]


def test_adapters_stay_with_the_stable_revision_of_their_base() -> None:
    catalog = rolling_out(99, views.adapter("r", "x"))
    choice = chosen(catalog, "r:x", point=0.999)
    assert isinstance(choice, Choice)
    route = resolve(views.view(catalog), choice.resource, "r:x")
    assert route is not None
    assert route.model.name == "models/r"


def choose(
    names: str,
    in_flight: dict[str, int],
    *,
    limit: int = 100,
    affinity: str | None = None,
    avoid: str = "",
    down: str = "",
    seed: int = 0,
) -> str | None:
    chosen = choose_endpoint(
        tuple(Endpoint(replica_id=name, url=f"http://{name}") for name in names),
        in_flight,
        limit=limit,
        affinity=affinity,
        avoid=set(avoid),
        down=set(down),
        randrange=Random(seed).randrange,
    )
    return chosen.replica_id if chosen else None


def test_the_less_loaded_of_two_endpoints_is_taken() -> None:
    assert {choose("ab", {"a": 3, "b": 2}, seed=seed) for seed in range(20)} == {"b"}


def test_the_most_loaded_endpoint_is_never_taken_and_the_others_share() -> None:
    taken = Counter(choose("abcdefgh", {"a": 9}, seed=seed) for seed in range(800))
    assert taken["a"] == 0
    assert min(taken[name] for name in "bcdefgh") > 50


def test_two_choices_keep_loads_close() -> None:
    in_flight: Counter[str] = Counter()
    randrange = Random(1).randrange
    endpoints = tuple(Endpoint(replica_id=str(number), url="") for number in range(20))
    for _ in range(2000):
        chosen = choose_endpoint(
            endpoints, in_flight, limit=10**6, affinity=None, avoid=(), down=(), randrange=randrange
        )
        assert chosen is not None
        in_flight[chosen.replica_id] += 1
    assert max(in_flight.values()) - min(in_flight.values()) <= 6  # a single random choice would spread by about 40


def test_no_endpoint_is_taken_when_all_are_full() -> None:
    assert choose("ab", {"a": 2, "b": 2}, limit=2) is None
    assert choose("a", {"a": 1}, limit=1) is None


def test_an_endpoint_with_room_is_found_among_many_full_ones() -> None:
    full = dict.fromkeys("abcdefgh", 5) | {"f": 4}
    assert {choose("abcdefgh", full, limit=5, seed=seed) for seed in range(30)} == {"f"}


def test_a_tried_endpoint_is_avoided_while_another_has_room() -> None:
    assert {choose("ab", {"b": 50}, avoid="a", seed=seed) for seed in range(20)} == {"b"}
    assert choose("ab", {"b": 100}, avoid="a") == "a"
    assert choose("a", {}, avoid="a") == "a"


def test_an_endpoint_that_is_down_is_taken_only_when_all_are() -> None:
    assert {choose("ab", {"b": 50}, down="a", seed=seed) for seed in range(20)} == {"b"}
    assert choose("ab", {"b": 100}, down="a") is None
    assert choose("ab", {}, down="ab") in ("a", "b")


def test_an_adapter_stays_at_its_first_home() -> None:
    homes = {choose("abcdefgh", {}, affinity="pirate@1", seed=seed) for seed in range(30)}
    assert len(homes) == 1


def test_adapters_spread_over_endpoints() -> None:
    homes = Counter(choose("abcd", {}, affinity=f"adapter-{number}@1") for number in range(400))
    assert min(homes[name] for name in "abcd") > 60


def test_an_adapter_goes_to_its_second_home_when_the_first_is_busy() -> None:
    home = choose("abcdefgh", {}, affinity="pirate@1")
    assert home is not None
    assert choose("abcdefgh", {home: AFFINITY_SLACK_REQUESTS}, affinity="pirate@1") == home
    second = {
        choose("abcdefgh", {home: AFFINITY_SLACK_REQUESTS + 1}, affinity="pirate@1", seed=seed) for seed in range(30)
    }
    assert len(second) == 1
    assert second != {home}


def test_an_adapters_home_moves_only_with_its_endpoint() -> None:
    home = choose("abcdefgh", {}, affinity="pirate@1")
    assert home is not None
    others = "".join(name for name in "abcdefgh" if name != home)
    moved = choose(others, {}, affinity="pirate@1")
    for gone in others:
        if gone != moved:
            assert choose(others.replace(gone, "") + home, {}, affinity="pirate@1") == home
