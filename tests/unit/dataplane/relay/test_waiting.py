from __future__ import annotations

import pytest

from dataplane.relay.errors import RelayFullError
from dataplane.relay.topics import Key, Topic
from dataplane.relay.waiting import WaitingIndex

A, B = Key(Topic.SLEEP_ORDERS, "a"), Key(Topic.SLEEP_ORDERS, "b")


def test_watchers_of_a_key_and_of_its_topic_are_found_and_no_others() -> None:
    index: WaitingIndex[str] = WaitingIndex(watchers_max=10)
    index.add([A], "key")
    index.add([B, Topic.ADAPTERS], "other key")
    index.add([Topic.SLEEP_ORDERS], "topic")
    index.add([Topic.ENGINES], "other topic")
    assert index.waiting_for([A]) == {"key", "topic"}
    assert index.waiting_for([Key(Topic.ADAPTERS, "a")]) == {"other key"}
    assert index.waiting_for([]) == set()


def test_who_waits_no_more_is_not_found() -> None:
    index: WaitingIndex[str] = WaitingIndex(watchers_max=10)
    index.add([A, B], "first")
    index.add([A], "second")
    index.discard([A, B], "first")
    assert index.waiting_for([A, B]) == {"second"}
    assert len(index) == 1


def test_watchers_are_bounded() -> None:
    index: WaitingIndex[str] = WaitingIndex(watchers_max=1)
    index.add([A], "first")
    with pytest.raises(RelayFullError):
        index.add([A], "second")
    index.discard([A], "first")
    index.add([A], "second")
