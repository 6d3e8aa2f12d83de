"""Every row of the table in docs/cold-start.md, against a real ingress and simulated engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dataplane.ingress.limits import IngressSettings
from dataplane.snapshot.activation import START_QUEUED, ModelActivation, State
from dataplane.snapshot.indexes.build import build
from dataplane.snapshot.quarantine import Quarantine
from dataplane.snapshot.snapshot import Snapshot
from tests import views
from tests.stream.ingress_world import Answer, World, ready, until, unused_url

DOCUMENT = Path(__file__).parents[2] / "docs" / "cold-start.md"
MARK = "<!-- the table of the contract -->"
CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
AT_ONCE_S = 1.0
DEADLINE_S = 0.15

IDLE = ModelActivation(state=State.IDLE, revision_number=1)
DEPLOYING = ModelActivation(state=State.DEPLOYING, revision_number=1)
FAILED = ModelActivation(
    state=State.FAILED,
    revision_number=1,
    reason="OUT_OF_MEMORY",
    message="no memory left for /srv/models/m",
    retry_after_s=11.5,
)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    model: str
    client: str
    answered: str
    status: str
    code: str
    retry_after: str
    wakes: str


def rows() -> list[Row]:
    """The rows of the table in the document."""
    lines = DOCUMENT.read_text(encoding="utf-8").partition(MARK)[2].strip().splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [Row(*(cell.strip(" `") for cell in line.strip("|").split("|"))) for line in table]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        made = World(stack)
        await made.start(IngressSettings())
        yield made


def catalog(**admission: object) -> Snapshot:
    return views.snapshot(views.model("m", admission=admission))


Happens = Callable[[], Awaitable[object]]


async def nothing() -> None:
    """Do nothing."""


def admission_of(row: Row) -> dict[str, object]:
    """The admission of the row's model."""
    admission: dict[str, object] = {}
    if "cold_start_timeout" in row.client:
        admission["coldStartTimeout"] = f"{DEADLINE_S}s"
    if "queue_timeout" in row.client:
        admission["queueTimeout"] = f"{DEADLINE_S}s"
    if "queue is full" in row.client:
        admission["maxQueuedRequests"] = 0
    return admission


async def prepare(world: World, row: Row) -> Happens:
    """Bring the world into the row's state. Returns what happens while the client waits."""
    admission = admission_of(row)
    shown = catalog(**admission)

    async def start() -> None:
        world.show(shown, m=DEPLOYING)
        _, url = await world.engine()
        world.show(shown, m=ready(url))

    match row.model:
        case "IDLE":
            world.show(shown, m=IDLE)
            return start
        case "FAILED, and IDLE after its backoff":
            world.show(shown, m=FAILED)
            assert (await world.post(CHAT, ASK)).code == "model_failed"
            world.show(shown)
            return start
        case "DEPLOYING":
            world.show(shown, m=DEPLOYING)
            return during_the_start(world, row, shown, start)
        case "DEPLOYING, behind other starts":
            world.show(shown, m=replace(DEPLOYING, reason=START_QUEUED))
        case "READY, without room":
            return await without_room(world, admission)
        case "READY" | "READY, its replicas are gone" | "DEGRADED" | "FAILED":
            world.show(shown, m=await settled_activation(world, row))
        case "QUARANTINED":
            quarantine(world, row, shown)
        case "not in the snapshot":
            world.show(views.snapshot())
        case "no snapshot yet":
            pass
        case _:
            raise AssertionError(f"the test does not know {row}")
    return nothing


def during_the_start(world: World, row: Row, shown: Snapshot, start: Happens) -> Happens:
    """What happens while the client waits for a model that is starting."""

    async def fail() -> None:
        world.show(shown, m=FAILED)

    async def delete() -> None:
        world.show(views.snapshot(revision=8))

    async def stop() -> None:
        world.app.begin_drain()

    match row.client.removeprefix("waits").removeprefix(", and "):
        case "":
            return start
        case "the start fails":
            return fail
        case "the model is deleted":
            return delete
        case "the ingress stops":
            return stop
    raise AssertionError(f"the test does not know {row}")


async def without_room(world: World, admission: dict[str, object]) -> Happens:
    """Use up the room of a model. Returns the request that fills it."""
    engine, url = await world.engine(time_to_first_token_s=0.5)
    world.show(catalog(maxOngoingRequests=1, **admission), m=ready(url))
    first = asyncio.create_task(world.post(CHAT, ASK))
    await until(lambda: engine.counters.in_flight == 1)
    return lambda: first


async def settled_activation(world: World, row: Row) -> ModelActivation:
    """The activation of a model that nothing happens to while the client waits."""
    match row.model:
        case "FAILED":
            return FAILED
        case "READY, its replicas are gone":
            return ready(unused_url())
    _, url = await world.engine()
    serving = ready(url)
    return serving if row.model == "READY" else replace(serving, state=State.DEGRADED, reason="OUT_OF_MEMORY")


def quarantine(world: World, row: Row, shown: Snapshot) -> None:
    """Show a catalog in which the model is quarantined, or the only target of the route."""
    reason = Quarantine(revision_number=1, reason="SOURCE_NOT_ALLOWED", message="not here")
    route = [views.route("m", {"models/gone": 1})] if "route" in row.client else []
    name = "models/gone" if route else "models/m"
    world.show(build(shown.position, (), shown.digest, route, {name: reason}))


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.model}-{row.client}")
async def test_row_of_the_contract(world: World, row: Row) -> None:
    happens = await prepare(world, row)
    streams = row.client == "streams"
    begun = time.monotonic()
    asked = asyncio.create_task(world.post(CHAT, ASK | {"stream": streams}))

    if row.client == "goes away":
        await until(lambda: world.waiting() == 1)
        asked.cancel()
        await until(lambda: world.app.usage()["models/m"].in_flight == 0)
    else:
        if row.answered.startswith("when "):
            await until(lambda: world.waiting() == 1)
            await asyncio.sleep(0.05)
            assert not asked.done(), "it should wait"
            await happens()
        check(row, await asked, streams=streams)
        seconds = time.monotonic() - begun
        if row.answered == "at once":
            assert seconds < AT_ONCE_S
        elif row.answered == "at the deadline":
            assert DEADLINE_S <= seconds < DEADLINE_S + AT_ONCE_S
    assert world.woken == (["models/m"] if row.wakes == "yes" else [])


def check(row: Row, answer: Answer, *, streams: bool) -> None:
    """Check status, headers and body against the row."""
    assert str(answer.status) == row.status
    assert answer.headers.get("retry-after", "-") == row.retry_after
    if row.code == "-":
        assert answer.headers["x-broadsheet-model"] == "models/m/revisions/1"
        assert answer.headers["content-type"].startswith("text/event-stream" if streams else "application/json")
        assert answer.body.endswith(b"data: [DONE]\n\n") if streams else json.loads(answer.body)["model"] == "m"
    else:
        assert "x-broadsheet-model" not in answer.headers
        error = json.loads(answer.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == row.code
        assert b"/srv" not in answer.body
        if row.code == "model_failed":
            assert "OUT_OF_MEMORY: no memory left" in error["message"]


def test_the_table_covers_every_state_of_a_model() -> None:
    states = {row.model.partition(",")[0] for row in rows()}
    # For a new request DRAINING is IDLE: a draining application takes none.
    assert states >= {state.value for state in State} - {State.DRAINING.value}
