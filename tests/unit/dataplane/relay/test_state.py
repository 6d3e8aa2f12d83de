"""The relay's core: who may write, what a watcher is told, and the bounds."""

from __future__ import annotations

import pytest

from dataplane.relay.errors import NotOwnerError, RelayFullError, WriterReplacedError
from dataplane.relay.state import Cursor, Limits, RelayState
from dataplane.relay.topics import Key, Role, Topic, Writer, engine_key
from tests.unit.dataplane.relay.follower import Follower

AGENT = Writer(Role.AGENT, "agent", 1)
ENGINE = Writer(Role.ENGINE, "r1", 1)
OTHER_ENGINE = Writer(Role.ENGINE, "r2", 1)
REPORT = engine_key("app", "r1")
OTHER_REPORT = engine_key("app", "r2")
ORDER = Key(Topic.SLEEP_ORDERS, "app")
EVERYTHING = tuple(Topic)


def state(**limits: float) -> RelayState:
    return RelayState(epoch="first", limits=Limits(**limits))  # type: ignore[arg-type]  # each of its field's type


def put(made: RelayState, writer: Writer, *keys: Key, value: bytes = b"value", now: float = 0.0) -> bool:
    return made.put(writer, dict.fromkeys(keys, value), [], now).is_new_writer


def everything(made: RelayState) -> dict[Key, bytes]:
    return dict(made.changes(EVERYTHING, None).changed)


def test_the_first_look_is_complete_and_the_next_ones_are_what_changed() -> None:
    made = state()
    put(made, ENGINE, REPORT)
    put(made, AGENT, ORDER)
    follower = Follower(made, [Topic.ENGINES])
    first = follower.look()
    assert (first.is_complete, follower.values) == (True, {REPORT: b"value"})
    put(made, OTHER_ENGINE, OTHER_REPORT)
    put(made, AGENT, ORDER, value=b"not watched")
    second = follower.look()
    assert (second.is_complete, second.changed, second.removed) == (False, {OTHER_REPORT: b"value"}, ())
    assert follower.look().changed == {}


def test_a_removal_is_seen_by_watchers_of_the_topic_and_of_the_key() -> None:
    made = state()
    put(made, ENGINE, REPORT)
    followers = [Follower(made, [watched]) for watched in (Topic.ENGINES, REPORT)]
    for follower in followers:
        follower.look()
    made.put(ENGINE, {}, [REPORT], 0.0)
    assert [follower.look().removed for follower in followers] == [(REPORT,), (REPORT,)]


def test_a_cursor_of_another_epoch_is_answered_with_all_that_there_is() -> None:
    made = state()
    put(made, ENGINE, REPORT)
    changes = made.changes([Topic.ENGINES], Cursor("before", 99))
    assert (changes.is_complete, changes.changed, changes.cursor.epoch) == (True, {REPORT: b"value"}, "first")


def test_a_watcher_that_fell_behind_the_bounded_history_reads_everything_again() -> None:
    made = state(removals_max=1)
    keys = [Key(Topic.SLEEP_ORDERS, f"app{number}") for number in range(3)]
    put(made, AGENT, *keys)
    follower, up_to_date = Follower(made, [Topic.SLEEP_ORDERS]), Follower(made, [Topic.SLEEP_ORDERS])
    follower.look()
    up_to_date.look()
    for key in keys[:2]:
        made.put(AGENT, {}, [key], 0.0)
        assert not up_to_date.look().is_complete
    assert follower.look().is_complete
    assert follower.values == up_to_date.values == {keys[2]: b"value"}


def test_a_put_of_another_writers_key_is_refused_and_changes_nothing() -> None:
    made = state()
    put(made, ENGINE, REPORT)
    put(made, OTHER_ENGINE, OTHER_REPORT)
    for values, removed in (({OTHER_REPORT: b"new", REPORT: b"mine"}, []), ({}, [REPORT])):
        with pytest.raises(NotOwnerError):
            made.put(OTHER_ENGINE, values, removed, 0.0)
    assert everything(made) == {REPORT: b"value", OTHER_REPORT: b"value"}


def test_a_topic_is_written_by_its_role_alone() -> None:
    made = state()
    for writer, key in ((ENGINE, ORDER), (AGENT, REPORT), (Writer(Role.INGRESS, "i", 1), REPORT)):
        with pytest.raises(NotOwnerError):
            put(made, writer, key)
    assert everything(made) == {}


def test_a_key_that_was_removed_may_be_put_by_another_writer() -> None:
    made = state()
    put(made, ENGINE, REPORT)
    made.put(ENGINE, {}, [REPORT], 0.0)
    put(made, OTHER_ENGINE, REPORT)
    assert everything(made) == {REPORT: b"value"}


def test_a_new_agent_takes_over_the_keys_of_the_old_one_which_is_refused_from_then_on() -> None:
    made = state()
    put(made, AGENT, ORDER)
    successor = Writer(Role.AGENT, "agent", 2)
    assert made.is_current(AGENT)
    assert put(made, successor, Key(Topic.ACTIVATION))
    assert not made.is_current(AGENT)
    assert everything(made)[ORDER] == b"value", "what the old one has put is still there"
    with pytest.raises(WriterReplacedError):
        put(made, AGENT, ORDER)
    put(made, successor, ORDER, value=b"new")
    assert everything(made)[ORDER] == b"new"


def test_a_writer_is_new_once() -> None:
    made = state()
    assert put(made, ENGINE, REPORT)
    assert not put(made, ENGINE, REPORT)


def test_keys_of_a_replica_that_puts_nothing_any_more_are_removed() -> None:
    made = state(writer_lifetime_s=60)
    follower = Follower(made, [Topic.ENGINES])
    put(made, ENGINE, REPORT, now=0.0)
    put(made, OTHER_ENGINE, OTHER_REPORT, now=1.0)
    follower.look()
    put(made, OTHER_ENGINE, OTHER_REPORT, now=50.0)
    assert made.expire(60.0) == []
    assert made.expire(61.0) == [REPORT]
    assert follower.look().removed == (REPORT,)
    assert put(made, ENGINE, REPORT, now=62.0), "it is told that all its keys are lost"


def test_what_an_agent_has_put_outlives_it() -> None:
    made = state(writer_lifetime_s=60)
    put(made, AGENT, ORDER, now=0.0)
    assert made.expire(1e9) == []
    assert everything(made) == {ORDER: b"value"}


def test_keys_are_bounded() -> None:
    made = state(keys_max=1)
    put(made, ENGINE, REPORT)
    with pytest.raises(RelayFullError):
        put(made, OTHER_ENGINE, OTHER_REPORT)
    put(made, ENGINE, REPORT, value=b"renewed")
    made.put(ENGINE, {}, [REPORT], 0.0)
    put(made, OTHER_ENGINE, OTHER_REPORT)


def test_bytes_are_bounded() -> None:
    made = state(bytes_max=10)
    put(made, ENGINE, REPORT, value=b"12345678")
    with pytest.raises(RelayFullError):
        put(made, OTHER_ENGINE, OTHER_REPORT, value=b"123")
    put(made, ENGINE, REPORT, value=b"1234567")
    put(made, OTHER_ENGINE, OTHER_REPORT, value=b"123")
    made.put(OTHER_ENGINE, {}, [OTHER_REPORT], 0.0)
    put(made, ENGINE, REPORT, value=b"1234567890")


def test_writers_and_names_are_bounded() -> None:
    made = state(writers_max=1, name_characters_max=10)
    put(made, ENGINE, REPORT)
    with pytest.raises(RelayFullError):
        put(made, OTHER_ENGINE, OTHER_REPORT)
    with pytest.raises(RelayFullError):
        put(made, ENGINE, engine_key("long-application", "r1"))
