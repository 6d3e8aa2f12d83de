"""The keys of a view, followed from view to view."""

from __future__ import annotations

from dataplane.ingress.access.api_keys import KeyAccess
from dataplane.snapshot.snapshot import Snapshot
from tests import views


def keys_view(*key_ids: str, requests: int = 60) -> Snapshot:
    return views.snapshot(
        *(views.api_key(key_id, f"bs-{key_id}", requestsPerMinute=str(requests)) for key_id in key_ids)
    )


async def test_counts_of_removed_keys_are_dropped_and_those_of_others_stay() -> None:
    access = KeyAccess(require_api_key=False, clock=lambda: 0.0)
    both = keys_view("a", "b")
    access.on_view(views.view(both))
    for key in both.api_keys.values():
        access.count_request(key)
    assert access.used() == {"uid-a": (1, 0), "uid-b": (1, 0)}
    access.on_view(views.view(keys_view("b", "c")))
    assert access.used() == {"uid-b": (1, 0)}
    access.on_view(views.view(keys_view("b", requests=30)))  # another limit, the same key
    assert access.used() == {"uid-b": (1, 0)}


async def test_what_other_replicas_admit_counts_for_the_keys_of_the_view() -> None:
    access = KeyAccess(require_api_key=False, clock=lambda: 0.0)
    access.on_view(views.view(keys_view("a")))
    access.take_over({"other": {}}, ["other"])
    access.take_over({"other": {"uid-a": (10, 0), "uid-gone": (5, 0)}}, ["other"])
    (key,) = keys_view("a").api_keys.values()
    headers = dict(access.count_request(key))
    assert headers[b"x-ratelimit-remaining-requests"] == b"49"
