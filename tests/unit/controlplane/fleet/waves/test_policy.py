"""Which data plane is in which wave."""

from __future__ import annotations

import pytest

from broadsheet.v1 import waves_pb2
from controlplane.errors import InvalidArgument
from controlplane.fleet.waves.policy import cuts_of, policy_of, wave_of

IDS = [f"dp-{number}" for number in range(200)]


def policy(*waves: waves_pb2.Wave) -> waves_pb2.FleetPolicy:
    return waves_pb2.FleetPolicy(waves=waves)


def percent(value: int) -> waves_pb2.Wave:
    return waves_pb2.Wave(percent=value)


def labelled(**labels: str) -> waves_pb2.Wave:
    return waves_pb2.Wave(labels=waves_pb2.LabelSelector(labels=labels))


def waves_by_id(message: waves_pb2.FleetPolicy, labels: dict[str, dict[str, str]]) -> dict[str, int]:
    made = policy_of(message)
    assert made is not None
    cuts = cuts_of(made, labels.items())
    return {data_plane_id: wave_of(data_plane_id, own, made.waves, cuts) for data_plane_id, own in labels.items()}


def test_a_share_is_of_all_and_rounded_up() -> None:
    waves = waves_by_id(policy(percent(1), percent(25)), {name: {} for name in IDS})
    assert [list(waves.values()).count(number) for number in (1, 2, 3)] == [2, 50, 148]
    assert list(waves_by_id(policy(percent(1)), {"only": {}}).values()) == [1]


def test_who_comes_or_goes_moves_nobody_else_once_a_rollout_has_begun() -> None:
    made = policy_of(policy(percent(10), percent(50)))
    assert made is not None
    cuts = cuts_of(made, [(name, {}) for name in IDS])
    before = {name: wave_of(name, {}, made.waves, cuts) for name in IDS[:100]}
    more = {name: wave_of(name, {}, made.waves, cuts) for name in [*IDS, "another", "one more"]}
    assert all(more[name] == wave for name, wave in before.items())


def test_labels_choose_before_and_after_shares() -> None:
    labels = {name: {"tier": "canary"} if name.endswith("7") else {"region": "eu"} for name in IDS}
    waves = waves_by_id(policy(labelled(tier="canary"), percent(10), labelled(region="eu")), labels)
    assert all((waves[name] == 1) == name.endswith("7") for name in IDS)
    assert [list(waves.values()).count(number) for number in (2, 3, 4)] == [20, 160, 0]


def test_all_labels_of_a_selector_are_needed() -> None:
    message = policy(labelled(tier="canary", region="eu"))
    assert waves_by_id(message, {"a": {"tier": "canary"}, "b": {"tier": "canary", "region": "eu", "x": ""}}) == {
        "a": 2,
        "b": 1,
    }


def test_only_the_last_wave_selects_everyone_else() -> None:
    assert policy_of(policy()) is None
    made = policy_of(policy(percent(5), waves_pb2.Wave()))
    assert made is not None
    assert len(made.waves) == 2
    with pytest.raises(InvalidArgument, match="waves"):
        policy_of(policy(waves_pb2.Wave(), percent(5)))
