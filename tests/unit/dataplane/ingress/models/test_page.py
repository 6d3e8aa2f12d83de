from __future__ import annotations

import asyncio
import json

import pytest

from dataplane.ingress.models.page import LIMIT_MAX, Cursor, PageQuery, encode_page, page_query
from dataplane.openai.errors import InvalidParameter
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.snapshot import Snapshot
from tests import views

CATALOG = views.snapshot(*(views.model(f"{'ab'[number % 2]}{number}") for number in range(7)))
KEY = ApiKey.of(views.api_key("alice", "bs-alice", "a*"))


async def pages(catalog: Snapshot, key: ApiKey | None, limit: int, *, before: str = "") -> list[list[str]]:
    """The ids of all pages, for a client that follows `last_id`; with `before`, `first_id`."""
    found: list[list[str]] = []
    query = PageQuery(limit=limit, cursor=Cursor("before_id", before) if before else None)
    while True:
        page = json.loads(await encode_page(views.view(catalog, {}), key, query))
        found.append([model["id"] for model in page["data"]])
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", found[-1][0], found[-1][-1])
        if not page["has_more"]:
            return found
        cursor = Cursor("before_id", page["first_id"]) if before else Cursor("after_id", page["last_id"])
        query = PageQuery(limit=limit, cursor=cursor)


async def test_all_pages_together_are_the_list_in_order() -> None:
    names = list(CATALOG.served)
    assert await pages(CATALOG, None, 3) == [names[:3], names[3:6], names[6:]]
    assert await pages(CATALOG, None, 7) == [names]
    assert await pages(CATALOG, None, 6) == [names[:6], names[6:]]


async def test_pages_of_a_key_have_only_visible_models() -> None:
    assert await pages(CATALOG, KEY, 2) == [["a0", "a2"], ["a4", "a6"]]
    assert await pages(CATALOG, KEY, 3) == [["a0", "a2", "a4"], ["a6"]]


async def test_pages_are_followed_backwards() -> None:
    names = list(CATALOG.served)
    assert await pages(CATALOG, None, 2, before=names[5]) == [names[3:5], names[1:3], names[:1]]
    assert await pages(CATALOG, None, 5, before=names[5]) == [names[:5]]
    assert await pages(CATALOG, KEY, 2, before="a6") == [["a2", "a4"], ["a0"]]


async def test_an_empty_page_has_no_ids() -> None:
    for catalog, cursor in (
        (views.snapshot(), None),
        (CATALOG, Cursor("after", "b5")),
        (CATALOG, Cursor("before", "a0")),
    ):
        page = json.loads(await encode_page(views.view(catalog, {}), None, PageQuery(limit=5, cursor=cursor)))
        assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_an_invisible_name_is_refused_like_an_unknown_one() -> None:
    for name in ("b1", "never"):
        for parameter in ("after", "before_id"):
            query = PageQuery(limit=5, cursor=Cursor(parameter, name))
            words = f"`{parameter}`: got '{name}'; allowed: the id of a model in the list"
            with pytest.raises(InvalidParameter, match=words) as caught:
                await encode_page(views.view(CATALOG, {}), KEY, query)
            assert caught.value.param == parameter


async def test_searching_the_names_of_a_key_does_not_block_the_event_loop() -> None:
    catalog = views.snapshot(*(views.model(f"b{number}") for number in range(5000)))
    turns = 0
    page = asyncio.create_task(encode_page(views.view(catalog, {}), KEY, PageQuery(limit=5)))
    while not page.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 5


@pytest.mark.parametrize("query", [b"", b"limits=3", b"order=desc&before_x=x"])
def test_without_parameters_the_whole_list_is_returned(query: bytes) -> None:
    assert page_query(query) is None


def test_parameters_have_defaults() -> None:
    assert page_query(b"limit=1") == PageQuery(limit=1)
    assert page_query(b"limit=1000&x=y") == PageQuery(limit=1000)


@pytest.mark.parametrize("parameter", ["after", "after_id", "before", "before_id"])
def test_the_cursors_of_both_apis_are_read(parameter: str) -> None:
    cursor = Cursor(parameter, "org/m:1")
    assert page_query(f"{parameter}=org%2Fm:1".encode()) == PageQuery(limit=LIMIT_MAX, cursor=cursor)


@pytest.mark.parametrize("limit", ["", "0", "1001", "-1", "+1", "1.0", "1_0", "%201", "%EF%BC%91", "9" * 5000, "ten"])
def test_an_invalid_limit_is_refused(limit: str) -> None:
    with pytest.raises(InvalidParameter, match=r"`limit`: got .*; allowed: a whole number from 1 to 1000") as caught:
        page_query(f"limit={limit}".encode())
    assert caught.value.param == "limit"
    assert len(str(caught.value)) < 250


def test_a_repeated_parameter_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="`after`: got several values; allowed: one"):
        page_query(b"after=a&after=b")
    with pytest.raises(InvalidParameter, match="`before_id`: got 'b'; allowed: nothing, because `after` is given"):
        page_query(b"after=a&before_id=b")
