"""When an idle model is asked to be woken."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from dataplane.ingress.admission.load import ModelUsage
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import START_QUEUED, ModelActivation
from tests import views
from tests.unit.dataplane.ingress.admission.desk import CATALOG, DEPLOYING, IDLE, Desk, cancel, limited


@pytest.mark.parametrize("activation", [None, IDLE])
async def test_an_idle_model_is_woken_once_for_many_requests(activation: ModelActivation | None) -> None:
    desk = Desk()
    desk.show(CATALOG, **({"m": activation} if activation else {}))
    tasks = [await desk.ask() for _ in range(50)]
    assert desk.woken == ["models/m"]
    assert desk.admission.usage()["models/m"] == ModelUsage(
        in_flight=50, waiting=50, last_request_at=100.0, waiting_callers=frozenset({""})
    )
    desk.show(CATALOG, m=DEPLOYING)
    desk.show(CATALOG, m=views.ready("http://a"))
    assert len(await asyncio.gather(*tasks)) == 50
    assert desk.woken == ["models/m"]
    assert desk.admission.waiting() == 0


async def test_whose_requests_wait_for_a_start_is_reported() -> None:
    desk = Desk()
    desk.show(CATALOG)
    tasks = [await desk.ask(caller=caller) for caller in ("alice", "bob", "alice")]
    assert desk.admission.usage()["models/m"].waiting_callers == {"alice", "bob"}
    desk.show(CATALOG, m=views.ready("http://a"))
    await asyncio.gather(*tasks)
    assert desk.admission.usage()["models/m"].waiting_callers == frozenset()
    desk.show(CATALOG)
    tasks = [await desk.ask(caller=f"caller-{number}") for number in range(50)]
    assert len(desk.admission.usage()["models/m"].waiting_callers) == 16
    for task in tasks:
        await cancel(task)


async def test_a_request_whose_start_never_began_is_told_so_at_its_deadline() -> None:
    desk = Desk()
    desk.show(limited(coldStartTimeout="0.02s"), m=replace(DEPLOYING, reason=START_QUEUED))
    with pytest.raises(openai_errors.StartQueuedTimeout, match=r"within 0.02 s: its start is queued behind"):
        await desk.acquire("m")
    desk.show(limited(coldStartTimeout="0.02s"), m=DEPLOYING)
    with pytest.raises(openai_errors.ColdStartTimeout):
        await desk.acquire("m")


async def test_a_starting_model_is_not_woken() -> None:
    desk = Desk()
    desk.show(CATALOG, m=DEPLOYING)
    task = await desk.ask()
    assert desk.woken == []
    await cancel(task)


async def test_a_lost_wake_is_repeated_while_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.ingress.admission.waking._REWAKE_INTERVAL_S", 0.02)
    monkeypatch.setattr("dataplane.ingress.admission.waking._WAKE_INTERVAL_S", 0.01)
    desk = Desk()
    desk.show(CATALOG)
    task = await desk.ask()
    await asyncio.sleep(0.1)
    assert len(desk.woken) >= 3
    await cancel(task)
    await asyncio.sleep(0.03)
    count = len(desk.woken)
    await asyncio.sleep(0.06)
    assert len(desk.woken) == count


async def test_a_model_with_a_queue_of_length_zero_is_woken() -> None:
    desk = Desk()
    desk.show(limited(maxQueuedRequests=0))
    with pytest.raises(openai_errors.QueueFull):
        await desk.acquire("m")
    assert desk.woken == ["models/m"]
