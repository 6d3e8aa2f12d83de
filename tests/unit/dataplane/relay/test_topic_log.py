from __future__ import annotations

from dataplane.relay.topic_log import Entry, LogChanges, TopicLog


def log(*, removals_max: int = 10) -> TopicLog:
    return TopicLog(removals_max=removals_max)


def put(made: TopicLog, name: str, version: int) -> None:
    made.put(name, Entry(version, f"{name}{version}".encode(), "writer"))


def test_only_what_changed_since_a_version_is_found() -> None:
    made = log()
    for version, name in enumerate(("a", "b", "c", "a"), start=1):
        put(made, name, version)
    assert made.since(0).changed == {"a": b"a4", "b": b"b2", "c": b"c3"}
    assert made.since(2).changed == {"a": b"a4", "c": b"c3"}
    assert made.since(4) == LogChanges()


def test_finding_changes_does_not_walk_the_other_keys() -> None:
    looked_at = 0

    class Counting(Entry):
        __slots__ = ()

        def __getattribute__(self, name: str) -> object:
            nonlocal looked_at
            looked_at += name == "version"
            return super().__getattribute__(name)

    made = log()
    for version in range(1, 1001):
        made.put(f"key{version}", Counting(version, b"value", "writer"))
    assert len(made.since(997).changed) == 3
    assert looked_at == 4, "the changed keys, and the last unchanged one"


def test_a_removal_is_found_until_the_key_is_put_again() -> None:
    made = log()
    put(made, "a", 1)
    put(made, "b", 2)
    assert made.remove("a", 3) is not None
    assert made.since(2) == LogChanges(removed=["a"])
    assert made.since(3) == LogChanges()
    put(made, "a", 4)
    assert made.since(2) == LogChanges({"a": b"a4"})


def test_removing_a_missing_key_changes_nothing() -> None:
    made = log()
    assert made.remove("a", 1) is None
    assert made.since(0) == LogChanges()


def test_a_watcher_that_is_behind_the_remembered_removals_is_not_answered_in_part() -> None:
    made = log(removals_max=2)
    for version, name in enumerate("abc", start=1):
        put(made, name, version)
    for version, name in enumerate("abc", start=4):
        made.remove(name, version)
    assert not made.knows_since(3), "the removal of a, at 4, is forgotten"
    assert made.knows_since(4)
    assert sorted(made.since(4).removed) == ["b", "c"]


def test_a_single_key_is_followed_alone() -> None:
    made = log()
    put(made, "a", 1)
    put(made, "b", 2)
    assert made.since_for("a", 0) == LogChanges({"a": b"a1"})
    assert made.since_for("a", 1) == LogChanges()
    made.remove("a", 3)
    assert made.since_for("a", 1) == LogChanges(removed=["a"])
    assert made.since_for("a", 3) == LogChanges()
    assert made.since_for("never", 0) == LogChanges()
