"""Pages of `GET /v1/models`, by `limit` and a cursor.

The cursor is `after` or `before`, as in OpenAI's other lists, or `after_id` or `before_id`, as in
Anthropic's list of models. Without any of them OpenAI's clients expect the whole list (`list.py`),
and Anthropic's expect a page.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dataplane.ingress.models.model_object import ModelObject, anthropic_model_object, model_object
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import View
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.snapshot import Snapshot
from protocol.validation import shorten

LIMIT_MAX = 1000
"""Models of one page, about 10 ms to encode. Also the limit of a page when none is given."""

_SLICE_NAMES = 1000
"""Names that are examined before other requests get their turn. A key may see few of them."""

_LIMIT_ALLOWED = f"a whole number from 1 to {LIMIT_MAX}"
_CURSORS = ("after", "after_id", "before", "before_id")
_CURSOR_ALLOWED = "the id of a model in the list"


class ModelsPage(msgspec.Struct):
    """A page of the list."""

    object: str
    data: Sequence[ModelObject]
    first_id: str | None
    last_id: str | None
    """`after` for the next page, as `first_id` is `before` for the previous one."""
    has_more: bool
    """Whether more models follow in the direction of the cursor."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins or ends."""

    parameter: str
    """The query parameter that gave it."""
    served_name: str
    """Of the model next to the page, which is not on it."""

    @property
    def is_end(self) -> bool:
        """Whether the page ends before the model; else it begins after it."""
        return self.parameter.startswith("before")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageQuery:
    """The requested page."""

    limit: int = LIMIT_MAX
    cursor: Cursor | None = None
    """None: the first page."""


def page_query(query_string: bytes) -> PageQuery | None:
    """Return the page that a query string asks for; None for the whole list.

    Unknown parameters are ignored.

    Raises:
        openai_errors.InvalidParameter: `limit` is invalid, or a parameter or cursor is given twice.
    """
    given: dict[str, str] = {}
    for name, value in urllib.parse.parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name != "limit" and name not in _CURSORS:
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
    cursors = [Cursor(name, value) for name, value in given.items() if name != "limit"]
    if len(cursors) > 1:
        first, second, *_ = cursors
        raise openai_errors.InvalidParameter(
            second.parameter, shorten(second.served_name), f"nothing, because `{first.parameter}` is given"
        )
    return PageQuery(limit=int(limit), cursor=cursors[0] if cursors else None)


async def encode_page(view: View, key: ApiKey | None, query: PageQuery, *, anthropic: bool = False) -> bytes:
    """The body of a page of the list with what `key` may see; of the whole list without a key.

    Raises:
        openai_errors.InvalidParameter: The cursor is not in the list that `key` may see.
    """
    names, has_more = await _names(view.snapshot, key, query)
    of = anthropic_model_object if anthropic else model_object
    page = ModelsPage(
        object="list",
        data=[of(view, view.snapshot.served[name]) for name in names],
        first_id=names[0] if names else None,
        last_id=names[-1] if names else None,
        has_more=has_more,
    )
    return msgspec.json.encode(page)


async def _names(snapshot: Snapshot, key: ApiKey | None, query: PageQuery) -> tuple[Sequence[str], bool]:
    """The served names of a page in order, and whether more follow in its direction."""
    names, cursor = iter(snapshot.served), query.cursor
    backwards = cursor is not None and cursor.is_end
    if cursor is not None:
        if cursor.served_name not in snapshot.served or (key is not None and not key.may_use(cursor.served_name)):
            raise openai_errors.InvalidParameter(cursor.parameter, shorten(cursor.served_name), _CURSOR_ALLOWED)
        items = snapshot.served.items_before if backwards else snapshot.served.items_from
        names = (name for name, _ in items(cursor.served_name) if name != cursor.served_name)
    found: list[str] = []
    for number, name in enumerate(names, start=1):
        if key is None or key.may_use(name):
            found.append(name)
        if len(found) > query.limit:  # one more than the page has shows that more follow
            break
        if number % _SLICE_NAMES == 0:
            await asyncio.sleep(0)
    page = found[: query.limit]
    return page[::-1] if backwards else page, len(found) > query.limit
