"""Attacks on a gRPC port, by callers without credentials."""

from __future__ import annotations

import gzip
import struct

from broadsheet.v1.enrollment_pb2 import RedeemEnrollmentRequest
from tests.hostile.attacker import ATTACK_S, Attack, Attacker
from tests.hostile.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    PRIORITY,
    SETTINGS,
    WINDOW_UPDATE,
    Caller,
    call_fields,
    field,
    frame,
    message,
)
from tests.hostile.http_attacks import endless, opened_and_aborted, silent_connections

_REGISTER = "/broadsheet.v1.RegistryService/RegisterModel"
_SYNC = "/broadsheet.v1.SnapshotService/Sync"
_REDEEM = "/broadsheet.v1.FleetService/RedeemEnrollment"
_CHECK = "/grpc.health.v1.Health/Check"
_WATCH = "/grpc.health.v1.Health/Watch"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
_OPENING = PREFACE + frame(SETTINGS, 0, 0)


async def prefaces(attacker: Attacker) -> None:
    """Connections with HTTP/2 and without a call."""
    await attacker.open_many(1000, _OPENING)
    await attacker.rest(ATTACK_S / 2)


async def unfinished_header_blocks(attacker: Attacker) -> None:
    fields = call_fields(_CHECK) + field(b"x-name", b"a" * 15_000)
    await attacker.open_many(500, _OPENING + frame(HEADERS, 0, 1, fields))
    await attacker.rest(ATTACK_S / 2)


def half_sent_messages(method: str) -> Attack:
    """As much as the server takes of many messages, without the last byte."""

    async def attack(attacker: Attacker) -> None:
        callers = [Caller(attacker) for _ in range(4)]
        await attacker.rest(0.05)
        start = message(b"", claimed_bytes=_MESSAGE_BYTES_MAX - 100)
        fields = call_fields(method)
        calls = [(caller, caller.call(fields, start)) for _ in range(50) for caller in callers]
        left = dict.fromkeys(calls, _MESSAGE_BYTES_MAX - 200)
        async for _ in attacker.steps():
            for caller in callers:
                caller.take()
            for (caller, stream), left_bytes in left.items():
                if caller.connection.flush() and (sent := min(caller.room(stream), left_bytes, 65536)):
                    caller.send(stream, b"\0" * sent)
                    left[caller, stream] = left_bytes - sent

    return attack


def calls(method: str, content: bytes = b"", *more: tuple[bytes, bytes], end: bool = True, callers: int = 2) -> Attack:
    """Many calls on each of some connections, answered or not."""

    async def attack(attacker: Attacker) -> None:
        fields = call_fields(method, *more)
        open_ = [Caller(attacker) for _ in range(callers)]
        async for _ in attacker.steps():
            for number, caller in enumerate(open_):
                caller.take()
                if caller.connection.closed:
                    open_[number] = caller = Caller(attacker)
                for _ in range(2):
                    caller.call(fields, content, end=end)

    return attack


async def rapid_reset(attacker: Attacker) -> None:
    fields = call_fields(_CHECK)
    open_ = [Caller(attacker) for _ in range(4)]
    async for _ in attacker.steps():
        for number, caller in enumerate(open_):
            caller.take()
            if caller.connection.closed:
                open_[number] = caller = Caller(attacker)
            for _ in range(5):
                caller.reset(caller.call(fields))


async def unread_answers(attacker: Attacker) -> None:
    """Requests of reflection with answers of many kilobytes, none of which may be sent."""
    settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
    open_ = [Caller(attacker, settings=settings) for _ in range(4)]
    asked = message(b"\x22" + bytes([29]) + b"broadsheet.v1.RegistryService")  # file_containing_symbol
    fields = call_fields(_REFLECTION)
    streams = [(caller, caller.call(fields)) for caller in open_ for _ in range(20)]
    async for _ in attacker.steps(pause_s=0.02):
        for caller in open_:
            caller.take()
        for caller, stream in streams:
            if caller.room(stream) >= 4 * len(asked):
                caller.send(stream, asked * 2)


_BOMB = gzip.compress(b"\0" * 200_000_000)
_TOKEN = RedeemEnrollmentRequest(
    name="dataPlanes/a",
    enrollment_token="bs-enroll-made-up",  # made up
    credential_hash=bytes(32),
).SerializeToString()
_CHECK_FIELDS = call_fields(_CHECK)

GRPC: dict[str, Attack] = {
    "silent connections": silent_connections,
    "opened and aborted connections": opened_and_aborted,
    "prefaces without a call": prefaces,
    "unfinished header blocks": unfinished_header_blocks,
    "half-sent messages": half_sent_messages(_REGISTER),
    "half-sent messages of calls that need no credentials": half_sent_messages(_CHECK),
    "an HTTP/1 request": endless(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"a" * 4000),
    "a TLS handshake": endless(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"a" * 4000),
    "garbage": endless(_OPENING, bytes(range(256)) * 16),
    "endless header block": endless(
        _OPENING + frame(HEADERS, 0, 1, _CHECK_FIELDS), frame(CONTINUATION, 0, 1, field(b"x-name", b"a" * 4000))
    ),
    "huge metadata": endless(
        _OPENING + frame(HEADERS, 0, 1, _CHECK_FIELDS),
        frame(CONTINUATION, 0, 1, field(b"x", b"a" * 16_000)) * 4 + frame(CONTINUATION, END_HEADERS, 1),
    ),
    "pings": endless(_OPENING, frame(PING, 0, 0, b"12345678") * 200, 4),
    "settings": endless(_OPENING, frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 65_535)) * 200, 4),
    "window updates": endless(_OPENING, frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 200, 4),
    "priorities": endless(_OPENING, frame(PRIORITY, 0, 1, b"\0\0\0\0\0") * 200, 4),
    "empty data": endless(
        _OPENING + frame(HEADERS, END_HEADERS, 1, call_fields(_REGISTER)), frame(DATA, 0, 1) * 200, 4
    ),
    "rapid reset": rapid_reset,
    "calls without credentials": calls(_REGISTER, message(b"")),
    "made-up enrolment tokens": calls(_REDEEM, message(_TOKEN)),
    "calls of nothing": calls("/nowhere/Nothing", message(b"")),
    "calls without a message": calls(_REGISTER, end=False),
    "streams without credentials": calls(_SYNC, end=False),
    "claimed gigabytes": calls(_CHECK, message(b"a" * 1000, claimed_bytes=2**32 - 1), end=False),
    "compressed bombs": calls(_CHECK, message(_BOMB[:60000], compressed=True), (b"grpc-encoding", b"gzip"), callers=1),
    "health watches": calls(_WATCH, message(b"")),
    "reflection streams": calls(_REFLECTION, end=False),
    "unread answers": unread_answers,
}
