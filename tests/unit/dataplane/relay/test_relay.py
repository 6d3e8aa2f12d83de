"""What a process sees of the relay, also when the actor is restarted."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.relay import relay as relay_module
from dataplane.relay.errors import NotOwnerError, WriterReplacedError
from dataplane.relay.messages import SleepOrder, Wake
from dataplane.relay.topics import UNCLAIMED, Key, Role, Topic
from tests.unit.dataplane.relay.relay_world import RelayWorld

ORDER = Key(Topic.SLEEP_ORDERS, "app")
OTHER_ORDER = Key(Topic.SLEEP_ORDERS, "other")
LIMITS = Key(Topic.RATE_LIMITS, "i1")
REPORT = Key(Topic.INGRESSES, "i1")


@pytest.fixture(autouse=True)
def retried_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_RETRY_S", 0.001)


async def test_values_arrive_as_they_were_put() -> None:
    world = RelayWorld()
    agent = world.relay(Role.AGENT, "agent")
    await agent.put({ORDER: SleepOrder(1, asleep=True)})
    changes = await world.relay(Role.ENGINE, "r1").read([ORDER])
    assert changes.values(Topic.SLEEP_ORDERS) == {"app": SleepOrder(1, asleep=True)}
    assert changes.values(Topic.ADAPTERS) == {}


async def test_a_process_puts_all_its_keys_again_when_it_finds_the_relay_restarted() -> None:
    world = RelayWorld()
    ingress = world.relay(Role.INGRESS, "i1")
    await ingress.put({REPORT: "report", LIMITS: "limits"})
    world.restart()
    await ingress.put({REPORT: "renewed"})
    found = await world.relay(Role.AGENT, "agent").read([Topic.INGRESSES, Topic.RATE_LIMITS])
    assert found.changed == {REPORT: "renewed", LIMITS: "limits"}


async def test_a_watcher_finds_out_about_a_restart_too() -> None:
    world = RelayWorld()
    agent = world.relay(Role.AGENT, "agent")
    await agent.put({ORDER: "sleep"})
    watcher = agent.watcher([Topic.ENGINES])
    before = await watcher.next()
    world.restart()
    after = await watcher.next()
    assert after.is_complete
    assert after.epoch != before.epoch
    assert (await agent.read([ORDER])).changed == {ORDER: "sleep"}


async def test_a_removed_key_is_not_put_again() -> None:
    world = RelayWorld()
    agent = world.relay(Role.AGENT, "agent")
    await agent.put({ORDER: 1, OTHER_ORDER: 1})
    await agent.put({}, removed=[ORDER])
    world.restart()
    await agent.put({Key(Topic.ACTIVATION): 1})
    assert (await agent.read([Topic.SLEEP_ORDERS])).changed == {OTHER_ORDER: 1}


async def test_a_call_is_tried_again_until_the_actor_is_back_and_then_puts_the_newest_value() -> None:
    world = RelayWorld()
    agent = world.relay(Role.AGENT, "agent")
    world.failures = 2
    late = asyncio.create_task(agent.put({ORDER: "old"}))
    await asyncio.sleep(0)
    await agent.put({ORDER: "new"})
    await late
    assert (await agent.read([ORDER])).changed == {ORDER: "new"}


async def test_an_old_agent_is_refused_once_a_new_one_has_put() -> None:
    world = RelayWorld()
    old, new = world.relay(Role.AGENT, "agent", UNCLAIMED), world.relay(Role.AGENT, "agent", UNCLAIMED)
    await old.put({ORDER: 1})
    await new.put({Key(Topic.ACTIVATION): 2})
    with pytest.raises(WriterReplacedError):
        await old.put({ORDER: 3})
    assert (await new.read([ORDER])).changed == {ORDER: 1}


async def test_tasks_of_an_agent_share_the_number_that_the_relay_gave() -> None:
    world = RelayWorld()
    agent = world.relay(Role.AGENT, "agent", UNCLAIMED)
    await asyncio.gather(agent.put({ORDER: 1}), agent.put({Key(Topic.ACTIVATION): 2}))
    assert world.calls.count("claim") == 1
    assert (await agent.current_writer()).incarnation > UNCLAIMED


async def test_a_relay_on_a_node_whose_clock_is_behind_refuses_one_agent_at_most() -> None:
    world = RelayWorld()
    old = world.relay(Role.AGENT, "agent", UNCLAIMED)
    await old.put({ORDER: 1})
    world.restart(started_at_ns=0)
    second = world.relay(Role.AGENT, "agent", UNCLAIMED)
    await second.current_writer()
    await old.put({ORDER: 2})
    with pytest.raises(WriterReplacedError):
        await second.put({ORDER: 3})
    third = world.relay(Role.AGENT, "agent", UNCLAIMED)
    await third.put({ORDER: 4})
    assert (await third.read([ORDER])).changed == {ORDER: 4}


async def test_only_agents_are_numbered() -> None:
    engine = RelayWorld().relay(Role.ENGINE, "r1", UNCLAIMED)
    with pytest.raises(NotOwnerError):
        await engine.put({Key(Topic.ENGINES, "app/r1"): 1})


async def test_a_paced_watcher_is_answered_once_for_many_changes() -> None:
    world = RelayWorld()
    agent = world.relay(Role.AGENT, "agent")
    watcher = agent.watcher([Topic.ENGINES], pace_s=0.5)
    await watcher.next()
    world.calls.clear()
    looking = asyncio.create_task(watcher.next())
    engine = world.relay(Role.ENGINE, "r1")
    for number in range(20):
        await engine.put({Key(Topic.ENGINES, f"app/{number}"): number})
    assert len((await looking).changed) == 20
    assert world.calls.count("watch") == 1


async def test_messages_come_to_the_agent_in_order_and_once() -> None:
    world = RelayWorld()
    inbox = world.relay(Role.AGENT, "agent").inbox()
    ingress = world.relay(Role.INGRESS, "i1")
    messages = [Wake(model=f"models/{number}") for number in range(3)]
    await ingress.send(messages[:2])
    assert await inbox.next() == tuple(messages[:2])
    await ingress.send(messages[2:])
    assert await inbox.next() == tuple(messages[2:])


async def test_messages_of_an_agent_that_died_come_to_the_next_one() -> None:
    world = RelayWorld()
    wake = Wake(model="models/m")
    await world.relay(Role.INGRESS, "i1").send([wake])
    await world.relay(Role.AGENT, "agent", 1).inbox().next()
    assert await world.relay(Role.AGENT, "agent", 2).inbox().next() == (wake,)


async def test_an_inbox_goes_on_after_a_restart() -> None:
    world = RelayWorld()
    inbox = world.relay(Role.AGENT, "agent").inbox()
    ingress = world.relay(Role.INGRESS, "i1")
    for number in range(2):
        wake = Wake(model=f"models/{number}")
        await ingress.send([wake])
        assert await inbox.next() == (wake,)
        world.restart()
