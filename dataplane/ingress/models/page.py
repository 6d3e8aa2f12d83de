"""Pages of `GET /v1/models`, by `limit` and `after` as in OpenAI's other lists.

Without either parameter the whole list is returned (`list.py`), as OpenAI's clients expect.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from dataclasses import dataclass

import msgspec

from dataplane.ingress.models.model_object import ModelObject, model_object
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import View
from dataplane.snapshot.api_key import ApiKey
from protocol.validation import shorten

LIMIT_MAX = 1000
"""Models of one page, about 10 ms to encode. Also the limit when only `after` is given."""

_SLICE_NAMES = 1000
"""Names that are examined before other requests get their turn. A key may see few of them."""

_LIMIT_ALLOWED = f"a whole number from 1 to {LIMIT_MAX}"
_AFTER_ALLOWED = "the id of a model in the list"


class ModelsPage(msgspec.Struct):
    """A page of the list."""

    object: str
    data: list[ModelObject]
    first_id: str | None
    last_id: str | None
    """The value of `after` for the next page."""
    has_more: bool


@dataclass(frozen=True, slots=True)
class PageQuery:
    """The requested page."""

    limit: int
    after: str | None
    """Served name before the page; None for the first page."""


def page_query(query_string: bytes) -> PageQuery | None:
    """Return the page that a query string asks for; None for the whole list.

    Unknown parameters are ignored.

    Raises:
        openai_errors.InvalidParameter: `limit` is invalid, or a parameter is given twice.
    """
    given: dict[str, str] = {}
    for name, value in urllib.parse.parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name not in ("limit", "after"):
            continue
        if name in given:
            raise openai_errors.InvalidParameter(name, "several values", "one")
        given[name] = value
    if not given:
        return None
    limit = given.get("limit", str(LIMIT_MAX))
    # int() alone would accept "１", "1_0" and " 1 " too.
    if not (limit.isascii() and limit.isdigit() and len(limit) <= len(str(LIMIT_MAX)) and 1 <= int(limit) <= LIMIT_MAX):
        raise openai_errors.InvalidParameter("limit", shorten(limit), _LIMIT_ALLOWED)
    return PageQuery(limit=int(limit), after=given.get("after"))


async def encode_page(view: View, key: ApiKey | None, query: PageQuery) -> bytes:
    """The body of a page of the list with what `key` may see; of the whole list without a key.

    Raises:
        openai_errors.InvalidParameter: `after` is not in the list that `key` may see.
    """
    snapshot = view.snapshot
    names = iter(snapshot.served)
    if query.after is not None:
        if query.after not in snapshot.served or (key is not None and not key.may_use(query.after)):
            raise openai_errors.InvalidParameter("after", shorten(query.after), _AFTER_ALLOWED)
        for name in names:
            if name == query.after:
                break
    data: list[ModelObject] = []
    has_more = False
    for number, name in enumerate(names, start=1):
        if key is None or key.may_use(name):
            has_more = len(data) == query.limit
            if has_more:
                break
            data.append(model_object(view, snapshot.served[name]))
        if number % _SLICE_NAMES == 0:
            await asyncio.sleep(0)
    page = ModelsPage(
        object="list",
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )
    return msgspec.json.encode(page)
