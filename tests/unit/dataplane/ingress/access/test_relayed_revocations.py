"""An ingress replica refuses keys as soon as the relay says that they are revoked."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.agent.ingress_revocations import IngressRevocations
from dataplane.agent.ingress_swap import SwapTiming
from dataplane.ingress.access.api_keys import KeyAccess
from dataplane.ingress.access.relayed_revocations import RelayedRevocations
from dataplane.openai import errors as openai_errors
from dataplane.relay.topics import Role
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, Addition, RevocationsPosition
from tests import views
from tests.unit.dataplane.agent.serve_world import ServeWorld
from tests.unit.dataplane.relay.relay_world import RelayWorld

KEY = "bs-the-key-of-alice"
SNAPSHOT = views.snapshot(views.model("m"), views.api_key("alice", KEY))


class World:
    def __init__(self) -> None:
        self.relay = RelayWorld()
        self.access = KeyAccess(require_api_key=False, clock=lambda: 0.0)
        self.changes = 0
        self.agents = 0

    def agent(self) -> IngressRevocations:
        self.agents += 1
        relay = self.relay.relay(Role.AGENT, "agent", incarnation=self.agents)
        return IngressRevocations(relay, positions=dict, serve=ServeWorld(), timing=SwapTiming())

    def follow(self) -> RelayedRevocations:
        return RelayedRevocations(self.relay.relay(Role.INGRESS, "a"), self.access, on_change=self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def lets_in(self) -> bool:
        headers = {b"authorization": f"Bearer {KEY}".encode()}
        try:
            return self.access.authenticate(headers, SNAPSHOT) is not None
        except openai_errors.ApiKeyInvalid:
            return False

    async def until_changed(self, changes: int) -> None:
        async with asyncio.timeout(5):
            while self.changes < changes:  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.005)


@pytest.fixture
def world() -> World:
    return World()


def at(sequence: int) -> RevocationsPosition:
    return RevocationsPosition(store_uid="store", sequence=sequence)


async def test_what_the_relay_has_at_start_is_refused_before_a_snapshot_may_be_used(world: World) -> None:
    await world.agent().put(Addition(key_uids=("uid-alice",), position=at(1)))
    assert world.lets_in()
    followed = world.follow()
    running = asyncio.create_task(followed.run())
    await asyncio.wait_for(followed.known.wait(), 5)
    assert not world.lets_in()
    assert world.access.revocations == at(1)
    running.cancel()


async def test_a_later_revocation_is_refused_at_once_and_reported(world: World) -> None:
    agent = world.agent()
    await agent.put(Addition(key_uids=(), position=NOTHING_REVOKED))
    running = asyncio.create_task(world.follow().run())
    await world.until_changed(1)
    assert world.lets_in()
    await agent.put(Addition(key_uids=("uid-alice",), position=at(1)))
    await world.until_changed(2)
    assert not world.lets_in()
    assert world.access.revocations == at(1)
    running.cancel()


async def test_a_relay_that_was_restarted_empty_takes_nothing_back(world: World) -> None:
    await world.agent().put(Addition(key_uids=("uid-alice",), position=at(1)))
    running = asyncio.create_task(world.follow().run())
    await world.until_changed(1)
    running.cancel()  # the call of the lost relay would end after a while
    world.relay.restart()
    # The agent was lost at the same time, and its disk too.
    await world.agent().put(Addition(key_uids=("another",), position=at(1)))
    running = asyncio.create_task(world.follow().run())
    await world.until_changed(2)
    assert not world.lets_in()
    running.cancel()


async def test_a_relay_without_any_revocation_does_not_keep_a_replica_from_starting(world: World) -> None:
    followed = world.follow()
    running = asyncio.create_task(followed.run())
    await asyncio.wait_for(followed.known.wait(), 5)
    assert world.lets_in()
    running.cancel()
