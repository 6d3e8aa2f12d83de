"""Lists of several pages: what the first request asks for, and what the next. Pure."""

from __future__ import annotations

from typing import Protocol

from broadsheet.errors import Internal

PAGE_SIZE = 200
"""Items per page. Fewer round trips than the server's default of 50; a page of the largest specs
stays far below `options.RECEIVE_BYTES_MAX`."""


class PagedRequest(Protocol):
    """A request for one page of several."""

    page_size: int
    page_token: str


class PagedResponse(Protocol):
    """The response to a `PagedRequest`."""

    @property
    def next_page_token(self) -> str: ...


def begin(request: PagedRequest) -> None:
    """Make `request` ask for the first page."""
    request.page_size = PAGE_SIZE


def advance(request: PagedRequest, response: PagedResponse, rpc: str) -> bool:
    """Make `request` ask for the page after `response`.

    Args:
        request: The request that `response` answers.
        response: The newest page.
        rpc: Name of the RPC, for the error.

    Returns:
        Whether there is a next page.

    Raises:
        Internal: The server repeats a page, so the list would never end.
    """
    if not response.next_page_token:
        return False
    if response.next_page_token == request.page_token:
        raise Internal("the control plane sent the same page twice", reason="PAGE_REPEATED", request=rpc)
    request.page_token = response.next_page_token
    return True
