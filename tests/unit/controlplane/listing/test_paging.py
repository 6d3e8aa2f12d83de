"""Page tokens."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadsheet.v1 import model_pb2, registry_service_pb2
from controlplane import errors
from controlplane.listing import paging

REQUEST = registry_service_pb2.ListAdaptersRequest(parent="models/m", page_size=5)


STORABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(STORABLE, STORABLE)
def test_a_token_holds_its_cursor(model_id: str, adapter_id: str) -> None:
    token = paging.token(REQUEST, (model_id, adapter_id))
    assert paging.cursor(REQUEST, token, str, str) == (model_id, adapter_id)


@pytest.mark.parametrize("cursor", [("a\0",), ("\ud800",), (2**63,), (-1,)])
def test_a_token_that_no_database_could_compare_is_refused(cursor: paging.Cursor) -> None:
    token = paging.token(REQUEST, cursor)
    with pytest.raises(errors.InvalidArgument):
        paging.cursor(REQUEST, token, type(cursor[0]))


def test_no_token_is_the_first_page() -> None:
    assert paging.cursor(REQUEST, "", str, str) is None


def test_the_page_size_may_change_between_pages() -> None:
    token = paging.token(REQUEST, ("m", "a"))
    other = registry_service_pb2.ListAdaptersRequest(parent="models/m", page_size=9, page_token=token)
    assert paging.cursor(other, token, str, str) == ("m", "a")


@given(st.text(max_size=60))
def test_text_that_is_not_a_token_is_refused(noise: str) -> None:
    if noise:
        with pytest.raises(errors.InvalidArgument) as caught:
            paging.cursor(REQUEST, noise, str, str)
        assert caught.value.reason == errors.Reason.INVALID_PAGE_TOKEN


def test_a_token_is_valid_only_for_its_request_method_and_version() -> None:
    token = paging.token(REQUEST, ("m", "a"))
    content = json.loads(base64.urlsafe_b64decode(token))
    newer = base64.urlsafe_b64encode(json.dumps([content[0] + 1, *content[1:]]).encode()).decode()
    revisions = registry_service_pb2.ListModelRevisionsRequest(parent="models/m")
    for request, refused, types in (
        (registry_service_pb2.ListAdaptersRequest(parent="models/n"), token, (str, str)),
        (revisions, token, (str, str)),
        (REQUEST, newer, (str, str)),
        (REQUEST, token, (str,)),
        (REQUEST, token, (str, int)),
    ):
        with pytest.raises(errors.InvalidArgument):
            paging.cursor(request, refused, *types)


@pytest.mark.parametrize(("requested", "size"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes(requested: int, size: int) -> None:
    assert paging.page_size(requested) == size


async def test_a_page_ends_after_enough_scanned_items_and_the_next_continues_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "SCANNED_MAX", 100)
    read_items: list[int] = []

    async def read(cursor: paging.Cursor | None, limit: int) -> list[int]:
        first = int(cursor[0]) + 1 if cursor is not None else 0
        items = list(range(first, min(first + limit, 320)))
        read_items.extend(items)
        return items

    pages: list[list[int]] = []
    cursor: paging.Cursor | None = None
    while not pages or cursor is not None:
        before = len(read_items)
        page, cursor = await paging.read_page(
            read,
            lambda item: (item,),
            lambda item: registry_service_pb2.ListModelsRequest(page_size=item),
            cursor,
            5,
            lambda item: item in (3, 249, 250, *range(300, 306)),
        )
        assert len(read_items) - before <= 100
        pages.append([message.page_size for message in page])
    assert pages == [[3], [], [249, 250], [300, 301, 302, 303, 304], [305]]


async def test_pages_by_id_list_every_item_once_and_in_order() -> None:
    ids = [f"model{number:02}" for number in range(7)]

    async def read(after_id: str, limit: int) -> list[str]:
        return [model_id for model_id in ids if model_id > after_id][:limit]

    listed: list[str] = []
    request = registry_service_pb2.ListModelsRequest(page_size=3)
    while True:
        page = await paging.page_by_id(
            request, read, key=lambda model_id: model_id, to_proto=lambda model_id: model_pb2.Model(name=model_id)
        )
        listed += [model.name for model in page.items]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == ids


async def test_pages_of_revisions_begin_with_the_newest() -> None:
    async def read(before: int | None, limit: int) -> list[int]:
        return [number for number in range(7, 0, -1) if before is None or number < before][:limit]

    listed: list[int] = []
    request = registry_service_pb2.ListModelRevisionsRequest(parent="models/m", page_size=3)
    while True:
        page = await paging.page_newest_first(
            request,
            read,
            key=lambda number: number,
            to_proto=lambda number: model_pb2.ModelRevision(number=number),
        )
        listed += [revision.number for revision in page.items]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == [7, 6, 5, 4, 3, 2, 1]


async def test_a_large_page_lets_other_tasks_run_while_it_is_built() -> None:
    built: list[int] = []
    pauses: list[int] = []

    async def read(after: paging.Cursor | None, limit: int) -> list[int]:
        first = int(after[0]) + 1 if after else 0
        return list(range(first, min(first + limit, 1000)))

    def to_proto(number: int) -> model_pb2.Model:
        built.append(number)
        return model_pb2.Model(name="m" * 8 * 1024)

    async def pause() -> None:
        pauses.append(len(built))

    page, _ = await paging.read_page(read, lambda number: (number,), to_proto, None, 1000, pause=pause)
    steps = [after - before for before, after in pairwise([0, *pauses, len(page)])]
    # No more than PAUSE_BYTES and one item come between two pauses.
    assert max(steps) <= paging.PAUSE_BYTES // (8 * 1024) + 1
    assert len(pauses) >= paging.PAGE_BYTES_MAX // paging.PAUSE_BYTES - 1
