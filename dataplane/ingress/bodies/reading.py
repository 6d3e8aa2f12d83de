"""Reads request bodies."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import Receive


class ClientGone(Exception):
    """The client went away before its request was complete."""


async def read_body(
    receive: Receive,
    *,
    declared_length: bytes | None,
    max_bytes: int,
    timeout_s: float,
    hold: Callable[[int], None],
) -> bytes:
    """Read a whole request body of at most `max_bytes`.

    Args:
        receive: The request's messages.
        declared_length: Its `content-length`.
        max_bytes: The largest body.
        timeout_s: The longest time.
        hold: Called with the size of the body: before it is read, as it is declared, and whenever
            more has come than that. What it raises ends the reading.

    Raises:
        BodyTooLarge: It is larger, as declared or as received.
        BodyTimeout: It did not arrive in time.
        ClientGone: The client closed the connection.
    """
    declared_bytes = 0
    if declared_length is not None and declared_length.isdigit():
        declared_bytes = int(declared_length)
        if declared_bytes > max_bytes:
            raise openai_errors.BodyTooLarge(max_bytes)
        hold(declared_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_body(receive, max_bytes, declared_bytes, hold)
    except TimeoutError:
        raise openai_errors.BodyTimeout(timeout_s) from None


async def _read_body(receive: Receive, max_bytes: int, held_bytes: int, hold: Callable[[int], None]) -> bytes:
    # It grows in place by an eighth, and gives its bytes away without a copy. Chunks that are
    # joined at the end would be held twice.
    pieces: io.BytesIO | None = None
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise openai_errors.BodyTooLarge(max_bytes)
        if size > held_bytes:
            hold(size)
        more = message.get("more_body", False)
        if pieces is None:
            if not more:
                return chunk
            pieces = io.BytesIO()
        pieces.write(chunk)
        if not more:
            return pieces.getvalue()
