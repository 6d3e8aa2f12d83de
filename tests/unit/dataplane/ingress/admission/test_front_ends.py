"""Requests over the front ends of a replica that has several."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from dataplane.ingress.admission.load import Lease
from dataplane.snapshot.activation import Endpoint, ModelActivation
from tests import views
from tests.unit.dataplane.ingress.admission.desk import CATALOG, Desk, limited

A = ("http://a1", "http://a2", "http://a3", "http://a4")


def replicas(*front_ends: tuple[str, ...]) -> ModelActivation:
    """A READY model with these front ends of each replica."""
    endpoints = tuple(Endpoint(replica_id=urls[0], url=urls[0], further_urls=urls[1:]) for urls in front_ends)
    return replace(views.ready(), endpoints=endpoints)


async def leases(desk: Desk, count: int) -> list[Lease]:
    return [await desk.acquire("m") for _ in range(count)]


def by_url(given: list[Lease]) -> Counter[str]:
    return Counter(lease.endpoint.url for lease in given)


async def test_every_front_end_gets_as_many_requests() -> None:
    desk = Desk()
    desk.show(CATALOG, m=replicas(A))
    given = await leases(desk, 40)
    assert by_url(given) == dict.fromkeys(A, 10)
    # Whichever end, the next ones fill up what has become free.
    for lease in given[:15]:
        desk.admission.release(lease)
    assert by_url(given[15:] + await leases(desk, 15)) == dict.fromkeys(A, 10)


async def test_one_request_after_the_other_goes_to_any_front_end() -> None:
    desk = Desk()
    desk.show(CATALOG, m=replicas(A))
    seen: Counter[str] = Counter()
    for _ in range(200):
        with await desk.acquire("m") as lease:
            seen[lease.endpoint.url] += 1
    assert all(seen[url] > 20 for url in A)


async def test_the_limit_of_a_replica_holds_over_its_front_ends() -> None:
    desk = Desk()
    desk.show(limited(maxOngoingRequests=3), m=replicas(A))
    tasks = [await desk.ask() for _ in range(5)]
    assert [task.done() for task in tasks] == [True] * 3 + [False] * 2
    assert desk.admission.in_flight() == 3
    for task in tasks:
        desk.admission.release(await task)
    assert desk.admission.in_flight() == 0


async def test_a_front_end_that_refused_is_avoided_and_its_replica_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.ingress.admission.endpoints._DOWN_S", 0.03)
    desk = Desk()
    desk.show(CATALOG, m=replicas(A))
    (first,) = await leases(desk, 1)
    desk.admission.report_down(first.endpoint)
    desk.admission.release(first)
    assert set(by_url(await leases(desk, 30))) == set(A) - {first.endpoint.url}
    await asyncio.sleep(0.05)
    assert by_url(await leases(desk, 4))[first.endpoint.url] == 4  # it has the fewest


async def test_a_replica_whose_front_ends_have_all_refused_is_avoided() -> None:
    desk = Desk()
    desk.show(CATALOG, m=replicas(A[:2], ("http://b",)))
    for url, other in ((A[0], A[1]), (A[1], A[0])):
        desk.admission.report_down(Endpoint(replica_id=A[0], url=url, further_urls=(other,)))
    assert set(by_url(await leases(desk, 10))) == {"http://b"}


async def test_a_retry_at_the_only_replica_goes_to_another_front_end() -> None:
    desk = Desk()
    desk.show(CATALOG, m=replicas(A))
    tried = {A[0], *A[1:3]}  # the replica's id is its first URL
    for _ in range(10):
        lease = await desk.acquire("m", avoid=tried)
        assert lease.endpoint.url == A[3]
