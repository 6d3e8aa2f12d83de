"""Attacks on an HTTP/1.1 port."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.hostile.attacker import ATTACK_S, PAUSE_S, Attack, Attacker
from tests.hostile.http2 import END_HEADERS, HEADERS, PREFACE, SETTINGS, call_fields, frame

CONNECTIONS = 1900
"""Just below what one address may have."""

_GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
_POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
_CHUNKED = _POST + b"transfer-encoding: chunked\r\n\r\n"
_HOLD_S = ATTACK_S / 2


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
    await attacker.open_many(300, _GET + b"a:\r\n" * 15_000, at_once=5)
    await attacker.rest(_HOLD_S)


async def slow_heads(attacker: Attacker) -> None:
    """One byte after the other."""
    slow = await attacker.open_many(200, b"G")
    head = _GET[1:] + b"x" * 100
    async for step in attacker.steps(pause_s=0.1):
        for connection in slow:
            connection.send(head[step : step + 1])


def endless(start: bytes, more: bytes, connections: int = 20) -> Attack:
    """Send `start`, and `more` for ever; begin again on a new connection when one is closed."""

    async def attack(attacker: Attacker) -> None:
        open_ = await attacker.open_many(connections, start)
        async for _ in attacker.steps(pause_s=2 * PAUSE_S):
            for number, connection in enumerate(open_):
                connection.read()
                if connection.closed:
                    open_[number] = connection = attacker.open()
                    connection.send(start)
                if connection.flush():
                    connection.send(more)
            attacker.drop_closed()

    return attack


def repeated(requests: Sequence[bytes], *, connections: int = 4, each_s: float = 0.02) -> Attack:
    """Send whole requests, each on a new connection, and read no answer."""

    async def attack(attacker: Attacker) -> None:
        turn = 0
        async for _ in attacker.steps(pause_s=each_s):
            attacker.drop_closed()
            for _ in range(connections):
                attacker.open().send(requests[turn % len(requests)])
                turn += 1

    return attack


def pipelined(sent: bytes, connections: int = 8, *, unread: bool = False) -> Attack:
    """Send requests without waiting for answers, which are read or not."""

    async def attack(attacker: Attacker) -> None:
        open_ = await attacker.open_many(connections)
        piece = sent * (65_536 // len(sent))
        async for _ in attacker.steps(pause_s=2 * PAUSE_S):
            for number, connection in enumerate(open_):
                if not unread:
                    connection.read()
                if connection.closed:
                    open_[number] = connection = attacker.open()
                if connection.flush():
                    connection.send(piece)
            attacker.drop_closed()

    return attack


async def slow_bodies(attacker: Attacker) -> None:
    slow = await attacker.open_many(200, _POST + b"content-length: 1000000\r\n\r\n")
    async for _ in attacker.steps(pause_s=0.1):
        for connection in slow:
            connection.send(b"a")


async def opened_and_aborted(attacker: Attacker) -> None:
    async for _ in attacker.steps():
        for _ in range(5):
            connection = attacker.open()
            connection.send(_POST)
            connection.reset()
        attacker.drop_closed()


def request(path: str, body: bytes, *headers: bytes, chunked: bool = False) -> bytes:
    """A request with a body."""
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    lines = (b"POST %s HTTP/1.1" % path.encode(), b"host: x", framing, *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# --- without a key --------------------------------------------------------------------------------

_UPGRADE = _GET + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"

WITHOUT_KEY: dict[str, Attack] = {
    "silent connections": silent_connections,
    "opened and aborted connections": opened_and_aborted,
    "unfinished heads": unfinished_heads,
    "unfinished heads of tiny headers": unfinished_heads_of_tiny_headers,
    "slow heads": slow_heads,
    "slow bodies": slow_bodies,
    "endless headers": endless(_GET, (b"x-name: " + b"a" * 1000 + b"\r\n") * 4),
    "endless header value": endless(_GET + b"x-name: ", b"a" * 4000),
    "endless URL": endless(b"GET /", b"a" * 4000),
    "endless blank lines": endless(b"", b"\r\n" * 2000),
    "endless chunks": endless(_CHUNKED, b"400\r\n" + b"a" * 1024 + b"\r\n"),
    "endless tiny chunks": endless(_CHUNKED, b"1\r\na\r\n" * 500),
    "endless chunk extension": endless(_CHUNKED + b"1;", b"a" * 4000),
    "endless trailers": endless(_CHUNKED + b"0\r\n", b"x-name: value\r\n" * 200),
    "endless body": endless(_POST + b"content-length: 10000000000\r\n\r\n", b"a" * 16_000),
    "huge URLs": repeated([b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"]),
    "pipelined requests": pipelined(_GET + b"\r\n"),
    "pipelined requests that nobody reads": pipelined(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", unread=True),
    "TLS handshakes": repeated([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500]),
    "HTTP/2 and gRPC": repeated(
        [PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, call_fields("/a/B"))]
    ),
    "WebSocket handshakes": repeated([_UPGRADE + b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"]),
    "malformed heads": repeated(
        [
            b"\0" * 1000 + b"\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /%00%ff%zz\xff\xfe HTTP/1.1\r\nhost: \xff\r\n\r\n",
            _GET + b"x: a\0b\r\n\r\n",
            _POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            _POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            _POST + b"content-length: -1\r\n\r\n",
            _POST + b"content-length: 99999999999999999999\r\n\r\n",
            _CHUNKED + b"ffffffffffffffffff\r\n",
            _GET + b"authorization: Bearer \xff\xfe\r\n\r\n",
        ]
    ),
}


# --- by a caller with a key -----------------------------------------------------------------------


def with_key(make: Callable[[bytes], Attack]) -> Attack:
    """An attack that is made with the header of a valid key."""

    async def attack(attacker: Attacker) -> None:
        await make(b"authorization: Bearer " + attacker.key.encode())(attacker)

    return attack


def _bodies(key: bytes) -> Attack:
    prompt = b'"messages":[{"role":"user","content":"a"}]'
    return repeated(
        [
            request("/v1/chat/completions", body, key, b"content-type: application/json")
            for body in (
                b"[" * 1_000_000,
                b'{"a":' * 100_000,
                b'{"model":"m","a":' + b"9" * 1_000_000 + b"}",
                b'{"model":"m","temperature":1e999999,' + prompt + b"}",
                b'{"model":"m",' + b'"model":"m",' * 50_000 + prompt + b"}",
                b'{"model":"m\\u0000",' + prompt + b"}",
                b'{"model":"\xff\xfe"}',
                b'{"model":"m","user":"\xed\xa0\x80"}',
                '{"model":"m"}'.encode("utf-16"),
                b"\0" * 1_000_000,
            )
        ],
        connections=1,
        each_s=0.05,
    )


def _forms(key: bytes) -> Attack:
    form = b"content-type: multipart/form-data; boundary=b"
    return repeated(
        [
            request("/v1/audio/transcriptions", body, key, form)
            for body in (
                b"--b\r\n" + b"x-name: value\r\n" * 50_000,
                b"--b\r\nx-name: " + b"a" * 1_000_000,
                b"--b\r\n\r\n\r\n" * 100_000,
                b"-" * 1_000_000,
            )
        ],
        connections=1,
        each_s=0.05,
    )


def _endless_body(key: bytes) -> Attack:
    return endless(_POST + key + b"\r\ncontent-length: 10000000\r\n\r\n", b"a" * 65_536, 30)


def _chunked_for_ever(key: bytes) -> Attack:
    return endless(_POST + key + b"\r\ntransfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"a" * 65536 + b"\r\n", 30)


def _unread_streams(key: bytes) -> Attack:
    body = b'{"model":"m","stream":true,"max_tokens":1000000,"messages":[{"role":"user","content":"a"}]}'

    async def attack(attacker: Attacker) -> None:
        for _ in range(20):
            attacker.open(receive_buffer_bytes=4096).send(request("/v1/chat/completions", body, key))
            await attacker.rest(0.05)
        await attacker.rest(ATTACK_S / 2)

    return attack


def _asked_and_left(key: bytes) -> Attack:
    body = b'{"model":"m","stream":true,"max_tokens":1000,"messages":[{"role":"user","content":"a"}]}'

    async def attack(attacker: Attacker) -> None:
        async for _ in attacker.steps(pause_s=0.02):
            connection = attacker.open()
            connection.send(request("/v1/chat/completions", body, key))
            await attacker.rest(0.01)
            connection.reset()
            attacker.drop_closed()

    return attack


WITH_KEY: dict[str, Attack] = {
    "malformed bodies": with_key(_bodies),
    "malformed forms": with_key(_forms),
    "bodies without end": with_key(_endless_body),
    "chunks without end": with_key(_chunked_for_ever),
    "streams that nobody reads": with_key(_unread_streams),
    "streams that are asked for and left": with_key(_asked_and_left),
}
