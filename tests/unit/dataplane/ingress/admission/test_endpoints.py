"""Requests in flight by endpoint, and endpoints that refuse connections."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.ingress.admission.load import ModelUsage
from tests import views
from tests.unit.dataplane.ingress.admission.desk import CATALOG, Desk, limited, settle


async def test_a_request_for_a_ready_model_is_granted_at_once_and_counted() -> None:
    desk = Desk()
    view = desk.show(CATALOG, m=views.ready("http://a", application="app-m"))
    with await desk.acquire("m:a") as lease:
        assert lease.endpoint.url == "http://a"
        assert lease.view is view
        assert desk.admission.usage() == {"models/m": ModelUsage(in_flight=1, waiting=0, last_request_at=100.0)}
        assert desk.admission.applications_in_use() == {"app-m": 1}
        desk.now = 150.0
    assert desk.admission.usage() == {"models/m": ModelUsage(in_flight=0, waiting=0, last_request_at=150.0)}
    assert desk.admission.applications_in_use() == {}


async def test_new_endpoints_grant_waiting_requests_up_to_their_limit() -> None:
    desk = Desk()
    catalog = limited(maxOngoingRequests=2)
    desk.show(catalog, m=views.ready("http://a"))
    tasks = [await desk.ask() for _ in range(7)]
    assert [task.done() for task in tasks] == [True] * 2 + [False] * 5
    desk.show(catalog, m=views.ready("http://a", "http://b"))
    await settle()
    assert [task.done() for task in tasks] == [True] * 4 + [False] * 3
    for task in tasks:
        desk.admission.release(await task)
    assert desk.admission.applications_in_use() == {}


async def test_a_running_request_keeps_its_view_and_its_application() -> None:
    desk = Desk()
    view = desk.show(CATALOG, m=views.ready("http://a", application="old"))
    with await desk.acquire("m") as lease:
        desk.show(views.snapshot(views.model("other"), revision=8))
        assert lease.view is view
        assert desk.admission.applications_in_use() == {"old": 1}
    assert desk.admission.applications_in_use() == {}
    assert desk.admission.usage() == {}


async def test_an_endpoint_that_refused_a_connection_is_avoided_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.ingress.admission.endpoints._DOWN_S", 0.03)
    desk = Desk()
    desk.show(CATALOG, m=views.ready("http://a", "http://b"))
    desk.admission.report_down(views.endpoints("http://a")[0])

    async def taken() -> set[str]:
        urls = set()
        for _ in range(20):
            with await desk.acquire("m") as lease:
                urls.add(lease.endpoint.url)
        return urls

    assert await taken() == {"http://b"}
    await asyncio.sleep(0.04)
    assert await taken() == {"http://a", "http://b"}


async def test_a_waiting_request_gets_an_endpoint_when_it_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.ingress.admission.endpoints._DOWN_S", 0.03)
    desk = Desk()
    desk.show(limited(maxOngoingRequests=1), m=views.ready("http://a", "http://b"))
    desk.admission.report_down(views.endpoints("http://a")[0])
    first = await desk.acquire("m")
    task = await desk.ask()
    assert (first.endpoint.url, task.done()) == ("http://b", False)
    lease = await asyncio.wait_for(task, 1)
    assert lease.endpoint.url == "http://a"
