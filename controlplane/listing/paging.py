"""Page sizes and page tokens. Pure.

A token is opaque to callers. It holds where the next page begins, and a hash of the request that it
belongs to: the same token with another filter would silently skip or repeat, so it is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf import message as protobuf_message

from controlplane import errors

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""Half of what gRPC clients take in one message by default. A single item has a quarter of a
megabyte at most."""

_READ_ITEMS = 50
"""Items read at a time, so that a page of large ones is not read whole before it is cut."""

SCANNED_MAX = 2000
"""Items held against a filter for one page, so that a call for what nothing matches has its end.
The page then ends short, and the next one goes on from there."""

_VERSION = 1
_REQUEST_HASH_CHARACTERS = 16

R = TypeVar("R")
M = TypeVar("M", bound=protobuf_message.Message)

Cursor = tuple[str | int, ...]
"""Where a page begins: after this key."""


def page_size(requested: int, *, default: int = PAGE_SIZE_DEFAULT) -> int:
    """How many items a page has. `requested` is at least 0; 0 stands for the default."""
    return min(requested or default, PAGE_SIZE_MAX)


def token(request: protobuf_message.Message, cursor: Cursor) -> str:
    """The token of the page after `cursor`, for requests that ask for the same as `request`."""
    content = json.dumps([_VERSION, _request_hash(request), *cursor], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode()


def cursor(request: protobuf_message.Message, page_token: str, *types: type[str] | type[int]) -> Cursor | None:
    """What a token says. None: there is no token, so the first page is asked for.

    Args:
        request: The whole request.
        page_token: Its page token.
        types: Those of the cursor's parts.

    Raises:
        errors.InvalidArgument: no such token was given for such a request.
    """
    if not page_token:
        return None
    try:
        content = json.loads(base64.b64decode(page_token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid() from None
    expected = [_VERSION, _request_hash(request)]
    if not isinstance(content, list) or content[:2] != expected or [type(part) for part in content[2:]] != list(types):
        raise _invalid()
    if not all(_storable(part) for part in content[2:]):
        raise _invalid()
    return tuple(content[2:])


def _storable(part: str | int) -> bool:
    """Whether a database can compare it: one that we gave is, one that somebody made up may not
    be."""
    if isinstance(part, str):
        # PostgreSQL takes no NUL, and neither takes halves of surrogate pairs, which JSON can
        # spell.
        return "\0" not in part and not any("\ud800" <= character <= "\udfff" for character in part)
    return 0 <= part < 2**63


async def read_page(
    read: Callable[[Cursor | None, int], Awaitable[Sequence[R]]],
    key: Callable[[R], Cursor],
    to_proto: Callable[[R], M],
    first: Cursor | None,
    size: int,
    matches: Callable[[R], bool] | None = None,
) -> tuple[list[M], Cursor | None]:
    """One page of items that may be large: it ends at `size` items, at PAGE_BYTES_MAX or after
    SCANNED_MAX items.

    Args:
        read: Items after a cursor, as many as a limit says.
        key: The cursor of an item.
        to_proto: An item as it is answered.
        first: The cursor to begin after. None: at the beginning.
        size: Items at most.
        matches: Which of those that are read are meant. None: all.

    Returns:
        The page, and the cursor that the next one begins after; None: there is none.
    """
    page: list[M] = []
    page_bytes = 0
    scanned = 0
    cursor = first
    while True:
        # With a filter nobody knows how many must be read for one that is meant.
        limit = min(size - len(page) + 1, _READ_ITEMS) if matches is None else _READ_ITEMS
        items = await read(cursor, limit)
        for item in items:
            if matches is None or matches(item):
                message = to_proto(item)
                page_bytes += message.ByteSize()
                if len(page) == size or (page and page_bytes > PAGE_BYTES_MAX):
                    return page, cursor
                page.append(message)
            cursor = key(item)
        if len(items) < limit:
            return page, None
        scanned += len(items)
        if matches is not None and scanned >= SCANNED_MAX:
            return page, cursor


def _request_hash(request: protobuf_message.Message) -> str:
    # Callers may change the page size between pages.
    asked = type(request)()
    asked.CopyFrom(request)
    for field in ("page_size", "page_token"):
        asked.ClearField(field)
    content = request.DESCRIPTOR.full_name.encode() + b"\0" + asked.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()[:_REQUEST_HASH_CHARACTERS]


def _invalid() -> errors.InvalidArgument:
    return errors.InvalidArgument.of_field(
        "page_token",
        "not the next_page_token of an answer to the same request",
        errors.Reason.INVALID_PAGE_TOKEN,
    )
