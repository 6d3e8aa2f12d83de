from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from dataplane.ingress.bodies.reading import ClientGone, read_body
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import Receive


def receiving(*messages: MutableMapping[str, Any]) -> Receive:
    left = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def chunk(body: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


async def read(
    receive: Receive, *, declared: bytes | None = None, timeout_s: float = 5, held: list[int] | None = None
) -> bytes:
    hold = (held if held is not None else []).append
    return await read_body(receive, declared_length=declared, max_bytes=10, timeout_s=timeout_s, hold=hold)


async def test_a_body_in_chunks_is_joined() -> None:
    assert await read(receiving(chunk(b"12345"), chunk(b""), chunk(b"67890", more=False))) == b"1234567890"


async def test_a_body_with_a_declared_length_over_the_limit_is_not_read() -> None:
    with pytest.raises(openai_errors.BodyTooLarge):
        await read(receiving(), declared=b"11")


@pytest.mark.parametrize("declared", [None, b"3", b"nonsense"])
async def test_a_body_is_bounded_whatever_its_declared_length(declared: bytes | None) -> None:
    with pytest.raises(openai_errors.BodyTooLarge):
        await read(receiving(chunk(b"123456"), chunk(b"78901")), declared=declared)


@pytest.mark.parametrize(("declared", "sizes"), [(b"9", [9]), (None, [4, 9]), (b"nonsense", [4, 9]), (b"4", [4, 9])])
async def test_a_body_is_held_before_it_is_read_as_far_as_its_size_is_declared(
    declared: bytes | None, sizes: list[int]
) -> None:
    held: list[int] = []
    await read(receiving(chunk(b"1234"), chunk(b"56789", more=False)), declared=declared, held=held)
    assert held == sizes


async def test_a_body_that_does_not_arrive_times_out() -> None:
    with pytest.raises(openai_errors.BodyTimeout):
        await read(receiving(chunk(b"1")), timeout_s=0.01)


async def test_a_client_that_leaves_while_sending_raises() -> None:
    with pytest.raises(ClientGone):
        await read(receiving(chunk(b"1"), {"type": "http.disconnect"}))
