from __future__ import annotations

from controlplane.catalog.domain import Head
from controlplane.commit_feed import CommitFeed
from tests.unit.controlplane.fleet_world import head


def test_every_subscriber_gets_every_head() -> None:
    feed = CommitFeed()
    first: list[Head] = []
    second: list[Head] = []
    feed.publish(head(1))
    feed.subscribe(first.append)
    feed.publish(head(3))
    feed.subscribe(second.append)
    feed.publish(head(2))
    assert first == [head(3), head(2)]
    assert second == [head(2)]
