"""Page sizes, page tokens, and the pages of lists. Pure.

A token is opaque to callers. It holds where the next page begins, and a hash of the request that it
belongs to. With another filter the same token would silently skip or repeat items, so it is
refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.protobuf import message as protobuf_message

from controlplane import errors

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""Half of what gRPC clients accept in one message by default. A single item has a quarter of a
megabyte at most."""

_READ_ITEMS = 50
"""Items read from the store at a time, so that a page of large items is cut before all are read."""

SCANNED_MAX = 2000
"""Items tested against a filter for one page. It bounds a call whose filter matches nothing: the
page ends short, and the next one continues from there."""

PAUSE_BYTES = 64 * 1024
"""Built of a page between two pauses. It takes a few milliseconds of the event loop."""

_VERSION = 1
_REQUEST_HASH_CHARACTERS = 16

R = TypeVar("R")
M = TypeVar("M", bound=protobuf_message.Message)

Pause = Callable[[], Awaitable[None]]
"""Lets other tasks run."""

Cursor = tuple[str | int, ...]
"""The key of the last item before a page."""

CursorType = type[str] | type[int]
"""Type of one part of a cursor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[M]):
    """One page of a list, as it is answered."""

    items: Sequence[M]
    next_page_token: str
    """Empty: this is the last page."""


class _ListRequest(Protocol):
    @property
    def page_size(self) -> int: ...

    @property
    def page_token(self) -> str: ...


async def page(
    request: protobuf_message.Message,
    read: Callable[[Cursor | None, int], Awaitable[Sequence[R]]],
    *,
    key: Callable[[R], Cursor],
    key_types: Sequence[CursorType],
    to_proto: Callable[[R], M],
    size_default: int = PAGE_SIZE_DEFAULT,
    matches: Callable[[R], bool] | None = None,
    pause: Pause | None = None,
) -> Page[M]:
    """The page that a list request asks for.

    Args:
        request: A request with `page_size` and `page_token`.
        read: Reads up to so many items after a cursor.
        key: The cursor of an item.
        key_types: Types of its parts.
        to_proto: Makes the message of an item.
        size_default: Items of a page whose size the request leaves open.
        matches: Which of the items belong to the list. None: all.
        pause: Called between items, for lists whose items are many or large. None: nothing is.

    Raises:
        errors.InvalidArgument: The page token was not given for such a request.
    """
    asked = _list_request(request)
    messages, following = await read_page(
        read,
        key,
        to_proto,
        cursor(request, asked.page_token, *key_types),
        page_size(asked.page_size, default=size_default),
        matches,
        pause,
    )
    return Page(items=messages, next_page_token=token(request, following) if following is not None else "")


async def page_by_id(
    request: protobuf_message.Message,
    read: Callable[[str, int], Awaitable[Sequence[R]]],
    *,
    key: Callable[[R], str],
    to_proto: Callable[[R], M],
) -> Page[M]:
    """A page of a list in the order of ids.

    Args:
        request: A request with `page_size` and `page_token`.
        read: Reads up to so many items after an id; after the empty one from the beginning.
        key: The id of an item.
        to_proto: Makes the message of an item.

    Raises:
        errors.InvalidArgument: The page token was not given for such a request.
    """
    return await page(
        request,
        lambda after, limit: read(str(after[0]) if after is not None else "", limit),
        key=lambda item: (key(item),),
        key_types=(str,),
        to_proto=to_proto,
    )


async def page_newest_first(
    request: protobuf_message.Message,
    read: Callable[[int | None, int], Awaitable[Sequence[R]]],
    *,
    key: Callable[[R], int],
    to_proto: Callable[[R], M],
) -> Page[M]:
    """A page of a list in the descending order of revision numbers.

    Args:
        request: A request with `page_size` and `page_token`.
        read: Reads up to so many items before a number; before None from the newest.
        key: The number of an item.
        to_proto: Makes the message of an item.

    Raises:
        errors.InvalidArgument: The page token was not given for such a request.
    """
    return await page(
        request,
        lambda after, limit: read(int(after[0]) if after is not None else None, limit),
        key=lambda item: (key(item),),
        key_types=(int,),
        to_proto=to_proto,
    )


def page_size(requested: int, *, default: int = PAGE_SIZE_DEFAULT) -> int:
    """How many items a page has. `requested` is at least 0; 0 stands for the default."""
    return min(requested or default, PAGE_SIZE_MAX)


def token(request: protobuf_message.Message, cursor: Cursor) -> str:
    """The token of the page after `cursor`, for requests that ask for the same as `request`."""
    content = json.dumps([_VERSION, _request_hash(request), *cursor], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode()


def cursor(request: protobuf_message.Message, page_token: str, *types: CursorType) -> Cursor | None:
    """The cursor in a page token. None: there is no token, so the first page is asked for.

    Args:
        request: The whole request.
        page_token: Its page token.
        types: Types of the parts of the cursor.

    Raises:
        errors.InvalidArgument: The token was not given for such a request.
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
    """Whether a database can compare it. Parts of a forged token may not be comparable."""
    if isinstance(part, str):
        # PostgreSQL accepts neither NUL nor halves of surrogate pairs, which JSON can spell.
        return "\0" not in part and not any("\ud800" <= character <= "\udfff" for character in part)
    return 0 <= part < 2**63


async def read_page(
    read: Callable[[Cursor | None, int], Awaitable[Sequence[R]]],
    key: Callable[[R], Cursor],
    to_proto: Callable[[R], M],
    first: Cursor | None,
    size: int,
    matches: Callable[[R], bool] | None = None,
    pause: Pause | None = None,
) -> tuple[list[M], Cursor | None]:
    """Read items until the page has `size` items or PAGE_BYTES_MAX, or SCANNED_MAX were tested.

    Args:
        read: Reads up to so many items after a cursor.
        key: The cursor of an item.
        to_proto: Makes the message of an item.
        first: The cursor to begin after. None: begin with the first item.
        size: Items at most.
        matches: Which of the items belong to the list. None: all.
        pause: Called whenever PAUSE_BYTES have been built. None: nothing is.

    Returns:
        The page, and the cursor that the next page begins after; None: this is the last page.
    """
    page: list[M] = []
    page_bytes = paused_at_bytes = 0
    scanned = 0
    cursor = first
    while True:
        # With a filter the number of items to read for one match is unknown.
        limit = min(size - len(page) + 1, _READ_ITEMS) if matches is None else _READ_ITEMS
        items = await read(cursor, limit)
        for item in items:
            if matches is None or matches(item):
                message = to_proto(item)
                page_bytes += message.ByteSize()
                if len(page) == size or (page and page_bytes > PAGE_BYTES_MAX):
                    return page, cursor
                page.append(message)
                if pause is not None and page_bytes - paused_at_bytes >= PAUSE_BYTES:
                    paused_at_bytes = page_bytes
                    await pause()
            cursor = key(item)
        if len(items) < limit:
            return page, None
        scanned += len(items)
        if matches is not None and scanned >= SCANNED_MAX:
            return page, cursor


def _list_request(request: protobuf_message.Message) -> _ListRequest:
    needed = {"page_size", "page_token"}
    assert needed <= set(request.DESCRIPTOR.fields_by_name), f"{request.DESCRIPTOR.name} lacks one of {needed}"
    asked: _ListRequest = request  # type: ignore[assignment]  # generated classes state their fields
    return asked


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
