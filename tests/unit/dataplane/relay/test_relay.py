from __future__ import annotations

import asyncio
from typing import Any

from dataplane.relay.relay import RelayActor


def new_relay() -> Any:
    """What runs in the actor."""
    return RelayActor.__ray_metadata__.modified_class()  # type: ignore[attr-defined]  # added by ray.remote


async def test_who_knows_nothing_is_told_at_once_also_that_there_is_nothing() -> None:
    relay = new_relay()
    async with asyncio.timeout(1):
        changes = await relay.poll(["a/"], "", 0, frozenset())
        assert (changes.changed, changes.live) == ({}, frozenset())
        await relay.put({"a/1": "one", "b/1": "other"}, [])
        changes = await relay.poll(["a/"], "an epoch before", 99, frozenset({"a/7"}))
        assert (changes.changed, changes.live) == ({"a/1": "one"}, frozenset({"a/1"}))


async def test_who_knows_all_waits_for_a_change() -> None:
    relay = new_relay()
    known = await relay.poll(["a/"], "", 0, frozenset())
    polling = asyncio.create_task(relay.poll(["a/"], known.epoch, known.sequence, known.live))
    await relay.put({"b/1": "other"}, [])
    await asyncio.sleep(0.01)
    assert not polling.done()
    await relay.put({"a/1": "one"}, [])
    changes = await polling
    assert changes.changed == {"a/1": "one"}
    polling = asyncio.create_task(relay.poll(["a/"], changes.epoch, changes.sequence, changes.live))
    await relay.put({}, ["a/1"])
    gone = await polling
    assert (gone.changed, gone.live) == ({}, frozenset())
