"""Attacks on an HTTP/1.1 port."""

from __future__ import annotations

from tests.hostile.attacker import PAUSE_S, Attack, Attacker

CONNECTIONS = 1900
"""Just below what one address may have."""

_GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
_POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
_CHUNKED = _POST + b"transfer-encoding: chunked\r\n\r\n"
_HOLD_S = 0.5


async def silent_connections(attacker: Attacker) -> None:
    attacker.silent = True
    await attacker.open_many(CONNECTIONS, at_once=50)
    await attacker.rest(_HOLD_S)


async def unfinished_heads(attacker: Attacker) -> None:
    """As long as they may be, from as many connections as one address may have."""
    await attacker.open_many(CONNECTIONS, _GET + (b"x-name: " + b"a" * 1000 + b"\r\n") * 68)
    await attacker.rest(_HOLD_S)


async def unfinished_heads_of_tiny_headers(attacker: Attacker) -> None:
    """A header of a few bytes takes a hundred in memory."""
    await attacker.open_many(300, _GET + b"a:\r\n" * 15_000, at_once=1)
    await attacker.rest(_HOLD_S)


async def unfinished_heads_of_many_addresses(attacker: Attacker) -> None:
    for last in range(2, 6):
        await attacker.open_many(1000, _GET + (b"x-name: " + b"a" * 1000 + b"\r\n") * 68, source=f"127.0.0.{last}")
    await attacker.rest(_HOLD_S)


async def slow_heads(attacker: Attacker) -> None:
    """One byte after the other."""
    slow = await attacker.open_many(200, b"G")
    head = _GET[1:] + b"x" * 100
    async for step in attacker.steps(1.0, pause_s=0.1):
        for connection in slow:
            connection.send(head[step : step + 1])


def endless(start: bytes, more: bytes, connections: int = 20) -> Attack:
    """Send `start`, and `more` for ever; begin again on a new connection when one is closed."""

    async def attack(attacker: Attacker) -> None:
        open_ = await attacker.open_many(connections, start)
        async for _ in attacker.steps(1.0, pause_s=2 * PAUSE_S):
            for number, connection in enumerate(open_):
                connection.read()
                if connection.closed:
                    open_[number] = connection = attacker.open()
                    connection.send(start)
                if connection.flush():
                    connection.send(more)
            attacker.drop_closed()

    return attack


def pipelined(request: bytes, connections: int = 4) -> Attack:
    async def attack(attacker: Attacker) -> None:
        open_ = await attacker.open_many(connections)
        piece = request * (65536 // len(request))
        async for _ in attacker.steps(1.0, pause_s=2 * PAUSE_S):
            for number, connection in enumerate(open_):
                if connection.closed:
                    open_[number] = connection = attacker.open()
                if connection.flush():
                    connection.send(piece)
            attacker.drop_closed()

    return attack


HEADS: dict[str, Attack] = {
    "silent connections": silent_connections,
    "unfinished heads": unfinished_heads,
    "unfinished heads of tiny headers": unfinished_heads_of_tiny_headers,
    "slow heads": slow_heads,
    "endless headers": endless(_GET, b"x-name: value\r\n" * 200),
    "endless header value": endless(_GET + b"x-name: ", b"a" * 4000),
    "endless URL": endless(b"GET /", b"a" * 4000),
    "endless blank lines": endless(b"", b"\r\n" * 2000),
    "endless chunks": endless(_CHUNKED, b"400\r\n" + b"a" * 1024 + b"\r\n"),
    "endless chunk extension": endless(_CHUNKED + b"1;", b"a" * 4000),
    "endless trailers": endless(_CHUNKED + b"0\r\n", b"x-name: value\r\n" * 200),
    "endless body": endless(_POST + b"content-length: 10000000000\r\n\r\n", b"a" * 16000),
    "pipelined requests": pipelined(_GET + b"\r\n"),
}
