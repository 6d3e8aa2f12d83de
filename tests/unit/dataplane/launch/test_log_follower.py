"""Whose logs a launcher shows."""

from __future__ import annotations

from dataplane.launch.log_follower import lines_of


def batch(actor: str | None) -> dict[str, object]:
    return {"actor_name": actor, "pid": 7, "ip": "10.0.0.1", "lines": ["one", "two"], "job": "01000000"}


def test_lines_of_the_data_planes_replicas_are_shown_with_their_origin() -> None:
    actor = "ServeReplica:broadsheet-m-0123456789ab@local:engine"
    assert list(lines_of(batch(actor), "local")) == [
        f"({actor} pid=7, ip=10.0.0.1) one",
        f"({actor} pid=7, ip=10.0.0.1) two",
    ]


def test_lines_of_others_on_the_cluster_are_not() -> None:
    for actor in (None, "RelayActor", "ServeReplica:theirs:local", "ServeReplica:broadsheet-agent@other:agent"):
        assert list(lines_of(batch(actor), "local")) == []
    assert list(lines_of({}, "local")) == []
