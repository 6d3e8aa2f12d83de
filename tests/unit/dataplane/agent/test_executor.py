"""Plans carried out: what Ray Serve, the ledger and the relay have afterwards."""

from __future__ import annotations

import time
from dataclasses import replace

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.desired import application_name, replica_bounds
from dataplane.agent.executor import DEPLOY_FAILED, Executor
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.ledger.lifecycle import Stage
from dataplane.agent.reconciler.actions import Delete, Deploy, Rescale, Sleep, Wake
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.wire import encode_adapter
from dataplane.relay.messages import LiveAdapters, SleepOrder
from dataplane.relay.relay import Changes
from dataplane.relay.topics import Key, Role, Topic
from tests import views
from tests.unit.dataplane.agent.ledger.reporting import empty, engine, report_engines
from tests.unit.dataplane.agent.serve_world import ServeWorld
from tests.unit.dataplane.relay.relay_world import RelayWorld

ENTRY = views.model("m")
APP = application_name(ENTRY)


class World:
    """An executor with its ledger and its relay."""

    def __init__(self) -> None:
        self.ledger: Ledger = empty()
        self.serve = ServeWorld()
        self._relays = RelayWorld()
        self.executor = Executor(self.ledger, self._relays.relay(Role.AGENT, "agent"), self.serve, clock=time.time)

    def puts(self) -> int:
        return self._relays.calls.count("put")

    @property
    def stage(self) -> Stage:
        state = self.ledger.applications.state(APP)
        return state.stage if state else Stage.ABSENT

    async def relayed(self, topic: Topic) -> Changes:
        return await self._relays.relay(Role.ENGINE, "r1").read([topic])

    async def deployed(self) -> None:
        await self.executor.carry_out([Deploy(APP, ENTRY)])


def scaled(max_replicas: int) -> snapshot_pb2.ModelEntry:
    entry = views.model("m", number=2)
    entry.revision.spec.scaling.max_replicas = max_replicas
    return entry


async def test_deployed_application_is_recorded_in_ray_serve_the_ledger_and_the_relay() -> None:
    world = World()
    await world.deployed()
    assert world.stage is Stage.STARTING
    record = world.serve.records[APP]
    assert (record.model, record.revision_number, record.placed) == ("models/m", 1, False)
    assert (await world.relayed(Topic.APPLICATIONS)).values(Topic.APPLICATIONS) == {APP: record}
    assert len(record.secret) >= 32
    assert record.secret not in repr(record)


async def test_deployment_that_ray_serve_refuses_is_given_up() -> None:
    world = World()
    world.serve.refuses = True
    await world.deployed()
    assert world.stage is Stage.FAILED
    failure = world.ledger.failures.by_application()[APP]
    assert (failure.reason, failure.message) == (DEPLOY_FAILED, "Ray Serve refused it: no controller")


async def test_scaling_is_recorded_after_ray_serve_has_taken_it() -> None:
    world = World()
    await world.deployed()
    secret = world.serve.records[APP].secret
    world.serve.refuses = True
    await world.executor.carry_out([Rescale(APP, scaled(4))])
    records = (await world.relayed(Topic.APPLICATIONS)).values(Topic.APPLICATIONS)
    assert records[APP].revision_number == 1, "the next plan tries again"
    world.serve.refuses = False
    await world.executor.carry_out([Rescale(APP, scaled(4))])
    records = (await world.relayed(Topic.APPLICATIONS)).values(Topic.APPLICATIONS)
    assert records[APP].revision_number == 2
    assert records[APP].replica_bounds == replica_bounds(scaled(4).revision.spec.scaling)
    assert records[APP].secret == secret, "the replicas keep running"
    assert world.stage is Stage.STARTING


async def test_sleep_and_wake_are_orders_with_rising_numbers() -> None:
    world = World()
    await world.deployed()
    await world.executor.carry_out([Sleep(APP)])
    orders = (await world.relayed(Topic.SLEEP_ORDERS)).changed
    assert orders == {Key(Topic.SLEEP_ORDERS, APP): SleepOrder(1, asleep=True)}
    await world.executor.carry_out([Wake(APP)])
    orders = (await world.relayed(Topic.SLEEP_ORDERS)).changed
    assert orders == {Key(Topic.SLEEP_ORDERS, APP): SleepOrder(2)}


async def test_deleted_application_stays_in_the_ledger_until_ray_serve_no_longer_lists_it() -> None:
    world = World()
    await world.deployed()
    await world.executor.carry_out([Delete(APP)])
    assert world.serve.deleted == [APP]
    assert world.stage is Stage.DELETING
    assert (await world.relayed(Topic.APPLICATIONS)).changed


async def test_action_on_an_application_that_is_gone_by_now_is_left_out() -> None:
    world = World()
    await world.executor.carry_out([Delete(APP), Sleep(APP), Wake(APP), Rescale(APP, ENTRY), Deploy(APP, ENTRY)])
    assert world.serve.deleted == []
    assert world.stage is Stage.STARTING


async def test_adapters_of_the_catalog_are_published_once_for_each_revision() -> None:
    world = World()
    await world.deployed()
    adapter = views.adapter("m", "a")
    for revision, adapters in ((7, [adapter]), (8, [])):
        await world.executor.publish_adapters(views.snapshot(ENTRY, *adapters, revision=revision))
        published = (await world.relayed(Topic.ADAPTERS)).values(Topic.ADAPTERS)
        newest = tuple(map(encode_adapter, adapters))
        assert published == {APP: LiveAdapters(catalog_revision=revision, newest=newest)}
        assert world.ledger.applications.without_adapters_of(revision) == {}


async def test_an_adapter_that_is_reported_after_it_has_left_the_catalog_is_told_of() -> None:
    world = World()
    await world.deployed()
    catalog, name = views.snapshot(ENTRY, revision=7), engine_adapter_name(views.adapter("m", "a"))
    await world.executor.publish_adapters(catalog)
    report_engines(world.ledger, {f"{APP}/r": replace(engine(), adapters=(name,))}, time.time())
    await world.executor.publish_adapters(catalog)
    told = (await world.relayed(Topic.ADAPTERS)).values(Topic.ADAPTERS)
    assert told == {APP: LiveAdapters(catalog_revision=7, left=frozenset({name}))}
    puts = world.puts()
    await world.executor.publish_adapters(catalog)
    assert world.puts() == puts
