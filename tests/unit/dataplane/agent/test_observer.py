"""What the ledger learns from the relay and from Ray Serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace

from dataplane.agent.ledger.application import TAKEN_ON_S
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.ledger.lifecycle import Stage
from dataplane.agent.observer import Observer
from dataplane.agent.serve_api import ServeState, ServeStatus
from dataplane.relay.messages import ApplicationRecord, ReplicaPlaced, SleepOrder, StartFailure, Wake
from dataplane.relay.topics import Key, Role, Topic, engine_key
from dataplane.snapshot.activation import Activation
from tests import views
from tests.unit.dataplane.agent.ledger.reporting import empty, engine, ingress, record
from tests.unit.dataplane.agent.serve_world import ServeWorld
from tests.unit.dataplane.relay.relay_world import RelayWorld

TIMEOUT_S = 5.0


class World:
    """An observer with its ledger and its relay."""

    def __init__(self) -> None:
        self.relays = RelayWorld()
        self.serve = ServeWorld()
        self.ahead_s = 0.0
        """Of the agent's clock, against the time of day."""
        self.start()

    def start(self, incarnation: int = 2) -> None:
        """Start an agent."""
        self.ledger: Ledger = empty()
        self.changed = asyncio.Event()
        self.observer = Observer(
            self.ledger,
            self.relays.relay(Role.AGENT, "agent", incarnation),
            self.serve,
            clock=self.now,
            on_change=self.changed.set,
        )

    def now(self) -> float:
        return time.time() + self.ahead_s

    async def leave(self, *records: ApplicationRecord, activation: Activation | None = None) -> None:
        """Write what an earlier agent leaves."""
        keys: dict[Key, object] = {Key(Topic.APPLICATIONS, left.name): left for left in records}
        keys |= {Key(Topic.SLEEP_ORDERS, left.name): SleepOrder(3) for left in records}
        if activation is not None:
            keys[Key(Topic.ACTIVATION)] = activation
        await self.relays.relay(Role.AGENT, "agent", 1).put(keys)

    async def engine_reports(self, replica: str = "r1", application: str = "app") -> None:
        report = engine(reported_at=time.time(), sleep_order=SleepOrder(3))
        await self.relays.relay(Role.ENGINE, replica).put({engine_key(application, replica): report})

    async def names(self, topic: Topic) -> set[str]:
        return set((await self.relays.relay(Role.ENGINE, "any").read([topic])).values(topic))

    @property
    def stage(self) -> Stage:
        state = self.ledger.applications.state("app")
        return state.stage if state else Stage.ABSENT

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running(task: Coroutine[object, object, None]) -> AsyncIterator[None]:
    started = asyncio.create_task(task)
    try:
        yield
    finally:
        started.cancel()
        await asyncio.wait([started])


async def test_adopted_application_runs_before_the_first_plan() -> None:
    world = World()
    activation = Activation(sequence=4, models={"models/m": views.ready("http://x", application="app")})
    await world.leave(record(), activation=activation)
    await world.engine_reports()
    ingress_report = replace(ingress(sequence=4), reported_at=time.time())
    await world.relays.relay(Role.INGRESS, "i1").put({Key(Topic.INGRESSES, "i1"): ingress_report})
    await world.observer.adopt()
    situation = world.ledger.situation(views.snapshot(), now=time.time(), time_of_day=time.time(), free={})
    assert len(situation.applications["app"].endpoints) == 1
    assert (situation.serving, situation.ingress_sequence) == ({"models/m": "app"}, 4)


async def test_adopted_keys_are_put_again_when_the_relay_loses_them() -> None:
    world = World()
    await world.leave(record())
    await world.observer.adopt()
    world.relays.restart()
    watcher = world.relays.relay(Role.ENGINE, "any").watcher([Topic.SLEEP_ORDERS])
    assert (await watcher.next()).changed == {}
    async with running(world.observer.follow_reports()):
        async with asyncio.timeout(TIMEOUT_S):
            await watcher.next()
    assert await world.names(Topic.SLEEP_ORDERS) == {"app"}


async def test_new_data_plane_adopts_nothing() -> None:
    world = World()
    await world.observer.adopt()
    assert world.ledger.applications.names() == frozenset()
    assert world.ledger.activation == Activation(sequence=0, models={})


async def test_report_of_a_replica_makes_its_application_ready() -> None:
    world = World()
    await world.leave(record())
    await world.observer.adopt()
    async with running(world.observer.follow_reports()):
        await world.engine_reports()
        await world.until(lambda: world.stage is Stage.RUNNING)


async def test_messages_of_replicas_reach_the_ledger() -> None:
    world = World()
    await world.leave(record(), record("fails"))
    await world.observer.adopt()
    now = time.time()
    async with running(world.observer.receive_messages()):
        await world.relays.relay(Role.ENGINE, "r1").send(
            [
                Wake(model="models/woken"),
                ReplicaPlaced(application="app", replica_id="r1"),
                ReplicaPlaced(application="unknown", replica_id="r1"),
                StartFailure(application="fails", replica_id="r2", reason="R", message="words"),
                StartFailure(application="unknown", replica_id="r2", reason="R", message="words"),
            ]
        )
        await world.until(lambda: "fails" in world.ledger.failures.by_application())
    assert now <= world.ledger.usage.last_activity(now)["models/woken"] <= time.time(), "when it arrived"
    records = (await world.relays.relay(Role.ENGINE, "any").read([Topic.APPLICATIONS])).values(Topic.APPLICATIONS)
    assert {name: left.placed for name, left in records.items()} == {"app": True, "fails": False}
    world.start(incarnation=3)
    await world.observer.adopt()
    adopted = world.ledger.applications.state("app")
    assert adopted is not None
    assert adopted.record.placed, "the next agent knows it too"


async def test_application_that_ray_serve_no_longer_lists_is_forgotten_with_its_keys() -> None:
    world = World()
    await world.leave(record(), record("stays"))
    world.serve.statuses["stays"] = ServeStatus(state=ServeState.RUNNING, message="")
    await world.observer.adopt()
    world.ahead_s = TAKEN_ON_S + 1
    async with running(world.observer.observe_serve()):
        await world.until(lambda: world.stage is Stage.ABSENT)
    assert await world.names(Topic.APPLICATIONS) == await world.names(Topic.SLEEP_ORDERS) == {"stays"}
    assert world.ledger.applications.names() == {"stays"}


async def test_keys_of_an_application_are_gone_before_the_ledger_forgets_it() -> None:
    world = World()
    await world.leave(record())
    await world.observer.adopt()
    world.ahead_s = TAKEN_ON_S + 1
    keys_left: list[bool] = []
    call = world.relays.remote

    async def watched(request: bytes) -> bytes:
        answer = await call(request)
        keys_left.append("app" in world.ledger.applications.names())
        return answer

    world.relays.remote = watched  # type: ignore[method-assign]  # looks on
    async with running(world.observer.observe_serve()):
        await world.until(lambda: world.stage is Stage.ABSENT)
    assert keys_left == [True]


async def test_application_that_fails_to_deploy_in_ray_serve_is_given_up() -> None:
    world = World()
    await world.leave(record())
    await world.observer.adopt()
    world.ahead_s = TAKEN_ON_S + 1
    world.serve.statuses["app"] = ServeStatus(state=ServeState.FAILED, message="words", reason="OUT_OF_MEMORY")
    async with running(world.observer.observe_serve()):
        await world.until(lambda: world.stage is Stage.FAILED)
    assert world.ledger.failures.by_application()["app"].reason == "OUT_OF_MEMORY"


async def test_application_without_a_record_is_deleted_unless_it_is_being_deleted() -> None:
    world = World()
    await world.observer.adopt()
    world.serve.statuses["unknown"] = ServeStatus(state=ServeState.RUNNING, message="")
    world.serve.statuses["going"] = ServeStatus(state=ServeState.DELETING, message="")
    async with running(world.observer.observe_serve()):
        await world.until(lambda: bool(world.serve.deleted))
    assert world.serve.deleted == ["unknown"]
