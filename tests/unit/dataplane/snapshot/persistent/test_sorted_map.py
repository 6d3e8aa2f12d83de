"""The sorted map: like a dict in the order of its keys, and earlier versions do not move."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.snapshot.persistent import sorted_map
from dataplane.snapshot.persistent.sorted_map import SortedMap

_KEYS = st.integers(0, 60)
_CONTENT = st.dictionaries(_KEYS, st.integers())
_UPDATES = st.lists(st.tuples(_CONTENT, st.sets(_KEYS)), max_size=8)


@pytest.fixture(params=[2, 5, 256])
def block_keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that few keys fill many."""
    monkeypatch.setattr(sorted_map, "BLOCK_KEYS", request.param)
    monkeypatch.setattr(sorted_map, "_SPARSE_BLOCKS", 1_000 if request.param == 2 else 1)


@pytest.mark.usefixtures("block_keys")
@settings(deadline=None, suppress_health_check=[])
@given(first=_CONTENT, updates=_UPDATES)
def test_each_version_is_the_dict_of_the_same_updates(
    first: dict[int, int], updates: list[tuple[dict[int, int], set[int]]]
) -> None:
    versions = [(SortedMap.of(first), dict(first))]
    for values, removed in updates:
        found, model = versions[-1]
        later = {key: value for key, value in model.items() if key not in removed} | values
        versions.append((found.updated(values, removed), later))
    for found, model in versions:
        ordered = sorted(model.items())
        assert (list(found.items()), list(found), list(found.values())) == (
            ordered,
            sorted(model),
            [value for _, value in ordered],
        )
        assert len(found) == len(model)
        assert found == model
        for key in range(-1, 62):
            assert found.get(key) == model.get(key)
            assert list(found.items_from(key)) == [item for item in ordered if item[0] >= key]
            assert list(found.items_before(key)) == [item for item in reversed(ordered) if item[0] < key]
        assert [found.value_at(index) for index in range(len(found))] == list(found.values())
    for before, _ in versions:
        for after, _ in versions:
            expected = {key for key in {*before, *after} if before.get(key) is not after.get(key)}
            assert after.changed_keys(before) == sorted(expected)


def test_nothing_to_do_gives_the_same_map() -> None:
    held = SortedMap.of({"a": 1})
    assert held.updated({}) is held
    assert list(SortedMap[str, int]().items_from("a")) == list(SortedMap[str, int]().items_before("a")) == []
    with pytest.raises(IndexError):
        held.value_at(1)
    with pytest.raises(KeyError):
        held["b"]


def test_an_update_shares_all_blocks_but_those_that_it_touches() -> None:
    held = SortedMap.of({key: key for key in range(100_000)})
    later = held.updated({50_000: -1, 50_001: -2}, {7})
    apart = {id(block) for block in later._blocks} - {id(block) for block in held._blocks}
    assert len(apart) == 2
    runs = {id(keys) for keys in later.key_runs()} - {id(keys) for keys in held.key_runs()}
    assert len(runs) == 1, "the keys are the same where only values have changed"
    assert [key for keys in later.key_runs() for key in keys] == list(later)


def test_removing_nearly_all_leaves_few_blocks() -> None:
    held = SortedMap.of({key: key for key in range(100_000)})
    for begin in range(0, 100_000, 200):
        held = held.updated({}, range(begin, begin + 199))
    assert len(held) == 500
    assert len(held._blocks) < 20
