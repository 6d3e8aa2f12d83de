"""What is reported about the load of each model."""

from __future__ import annotations

import asyncio

from dataplane.relay.messages import FirstByte
from tests import views
from tests.unit.dataplane.ingress.admission.desk import CATALOG, Desk


async def test_the_longest_wait_for_a_start_is_reported_until_the_next_start() -> None:
    desk = Desk()
    desk.show(CATALOG)
    tasks = [await desk.ask() for _ in range(2)]
    desk.show(CATALOG, m=views.ready("http://a"))
    first, second = await asyncio.gather(*tasks)
    assert first.waited_for_start
    assert second.waited_for_start
    desk.admission.note_first_byte(first, 40.0)
    desk.admission.note_first_byte(second, 39.0)
    known = desk.admission.usage()["models/m"].first_byte
    assert known == FirstByte(replica_id=first.endpoint.replica_id, seconds=40.0)
    later = await desk.acquire("m")
    assert not later.waited_for_start
    desk.show(CATALOG)
    task = await desk.ask()
    desk.show(CATALOG, m=views.ready("http://b"))
    again = await task
    desk.admission.note_first_byte(again, 3.0)
    known = desk.admission.usage()["models/m"].first_byte
    assert known == FirstByte(replica_id=again.endpoint.replica_id, seconds=3.0)


async def test_models_that_left_the_catalog_are_not_reported() -> None:
    desk = Desk()
    desk.show(CATALOG, m=views.ready("http://a"))
    with await desk.acquire("m"):
        pass
    desk.show(views.snapshot(views.model("other"), revision=8))
    assert desk.admission.usage() == {}


async def test_a_model_without_a_recent_request_is_not_reported() -> None:
    desk = Desk()
    desk.show(CATALOG, m=views.ready("http://127.0.0.1:1"), other=views.ready("http://127.0.0.1:2"))
    held = await desk.acquire("m")
    with await desk.acquire("other"):
        pass
    desk.now += 59
    assert desk.admission.usage().keys() == {"models/m", "models/other"}
    desk.now += 2
    assert desk.admission.usage().keys() == {"models/m"}, "it has a request in flight"
    desk.admission.release(held)
    with await desk.acquire("other"):
        assert desk.admission.usage()["models/other"].in_flight == 1
