"""Answers of engines, byte by byte: valid, broken, and changed at random."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from dataclasses import dataclass

import h11
import pytest

from dataplane.ingress.upstream.answer_parser import AnswerParser
from dataplane.openai.asgi import Headers

TEXT: Headers = [(b"content-type", b"text/plain")]
JSON_OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Read:
    """What a parser made of some bytes, with the end of the connection after them."""

    status: int
    headers: Headers
    body: bytes
    whole: bool
    keeps_alive: bool


def read(pieces: Iterable[bytes], *, eof: bool = True) -> Read:
    parser = AnswerParser()
    parser.begin()
    body, comes_late = b"", False
    for piece in pieces:
        comes_late = parser.ended  # a connection reads it for no request, and is closed
        if comes_late:
            break
        body += parser.feed(piece)
    if eof:
        parser.feed_eof()
    assert parser.whole or parser.fault or not eof
    assert not (parser.whole and parser.fault)
    return Read(parser.status, parser.headers, body, parser.whole, parser.keeps_alive and not comes_late)


def each_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


WHOLE = {
    "length": (JSON_OK, Read(200, [*TEXT, (b"content-length", b"2")], b"{}", True, True)),
    "empty": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        Read(200, [(b"content-length", b"0")], b"", True, True),
    ),
    "chunks, an extension and trailers": (
        CHUNKED + b"2;a=b\r\n{\n\r\n1\r\n}\r\n0\r\nx-checksum: 1\r\n\r\n",
        Read(200, TEXT, b"{\n}", True, True),
    ),
    "until the end": (b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n{}", Read(200, TEXT, b"{}", True, False)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n{}", Read(200, TEXT, b"{}", True, False)),
    "close": (
        JSON_OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
        Read(200, [*TEXT, (b"content-length", b"2")], b"{}", True, False),
    ),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\nset-cookie: y\r\n\r\n" + JSON_OK,
        Read(200, [*TEXT, (b"content-length", b"2")], b"{}", True, True),
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", Read(204, [], b"", True, True)),
    "304 with the length of what it does not send": (
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
        Read(304, [(b"content-length", b"10")], b"", True, True),
    ),
    "headers that are not for the caller": (
        b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: y\r\nSet-Cookie: z\r\nX-Broadsheet-Model: a\r\nX-Request-Id: b\r\n"
        b"Access-Control-Allow-Origin: *\r\nX-Engine: yes\r\ncontent-length: 0\r\n\r\n",
        Read(200, [(b"x-engine", b"yes"), (b"content-length", b"0")], b"", True, True),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_is_the_same_however_it_is_cut(name: str) -> None:
    data, expected = WHOLE[name]
    assert read([data]) == expected
    assert read(each_byte(data)) == expected
    for at in range(1, len(data)):
        assert read([data[:at], data[at:]]) == expected


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith(("until", "HTTP/1.0"))])
def test_an_answer_that_is_cut_off_is_not_whole(name: str) -> None:
    data, _ = WHOLE[name]
    for end in range(len(data)):
        assert not read([data[:end]]).whole


def test_answers_on_one_connection_do_not_mix() -> None:
    parser = AnswerParser()
    for data, expected in [answer for answer in WHOLE.values() if answer[1].keeps_alive] * 2:
        parser.begin()
        body = parser.feed(data)
        assert Read(parser.status, parser.headers, body, parser.whole, parser.keeps_alive) == expected


MALFORMED = {
    "nonsense": b"nonsense\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x16",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nx",
    "101 without a word": b"HTTP/1.1 101 Switching Protocols\r\n\r\nx",
    "a status of two digits": b"HTTP/1.1 99 OK\r\ncontent-length: 0\r\n\r\n",
    "a status that is none": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "two lengths": JSON_OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 2\r\n\r\n"),
    "a length and chunks": CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 2\r\n\r\n") + b"2\r\n{}\r\n0\r\n\r\n",
    "a signed length": JSON_OK.replace(b": 2", b": +2"),
    "a length beyond 64 bits": JSON_OK.replace(b": 2", b": 99999999999999999999"),
    "gzip as a transfer coding": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    "gzip in a header of its own": CHUNKED.replace(b"transfer", b"transfer-encoding: gzip\r\ntransfer") + b"0\r\n\r\n",
    "chunks that are not the last coding": CHUNKED.replace(b"chunked", b"chunked, gzip") + b"2\r\n{}\r\n0\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\n{}\r\n0\r\n\r\n",
    "a chunk that is longer than its size": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a folded header": JSON_OK.replace(b"text/plain", b"text/\r\n plain"),
    "a header with NUL": JSON_OK.replace(b"text/plain", b"text\0plain"),
    "bare line feeds": JSON_OK.replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_answer_is_never_whole(name: str) -> None:
    data = MALFORMED[name]
    assert not read([data]).whole
    assert not read(each_byte(data)).whole


ENDLESS = {
    "a header": (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 1000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
    "a reason": (b"HTTP/1.1 200 ", b"a" * 1000),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim answers with headers": (b"", b"HTTP/1.1 100 Continue\r\na: b\r\n\r\n"),
    "empty lines": (b"", b"\r\n" * 100),
    "an extension of a chunk": (CHUNKED + b"1;", b"a" * 1000),
    "zeros of a chunk's size": (CHUNKED, b"0" * 1000),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n"),
    "a trailer": (CHUNKED + b"0\r\na: ", b"b" * 1000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_given_up(name: str) -> None:
    begin, more = ENDLESS[name]
    parser = AnswerParser()
    parser.begin()
    assert parser.feed(begin) == b""
    fed = 0
    while not parser.ended:
        assert parser.feed(more) == b""
        fed += len(more)
        assert fed <= 70_000
    assert parser.fault


@pytest.mark.parametrize("header", [b"a: " + b"b" * 70_000 + b"\r\n", b"".join(b"a%d: b\r\n" % n for n in range(200))])
def test_a_head_that_is_too_large_is_given_up_although_it_is_complete(header: bytes) -> None:
    assert not read([JSON_OK.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n")]).whole


def test_a_large_piece_of_body_in_the_read_of_the_head_is_no_large_head() -> None:
    body = b"x" * 200_000
    assert read([b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + body]).body == body
    chunked = b"".join(b"1\r\nx\r\n" for _ in range(60_000))
    assert read([CHUNKED + chunked + b"0\r\n\r\n"]).body == b"x" * 60_000


@pytest.mark.parametrize("after", [b"x", JSON_OK, b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_bytes_after_the_end_are_no_part_of_it_and_end_the_connection(after: bytes) -> None:
    got = read([JSON_OK + after])
    assert (got.status, got.body, got.whole, got.keeps_alive) == (200, b"{}", True, False)


# --- answers that are changed at random -----------------------------------------------------------


def changed(draw: random.Random, data: bytes) -> bytes:
    """A valid answer with a few bytes changed, dropped, doubled or moved."""
    result = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(result))
        end = min(len(result), at + draw.choice((1, 1, 2, 8)))
        match draw.randrange(5):
            case 0:
                result[at] = draw.choice(b"\r\n\0 :;0129afHTP/.\xff")
            case 1:
                del result[at:end]
            case 2:
                result[at:at] = result[at:end]
            case 3:
                result[at:at] = draw.choice(
                    (b"\r\n", b"\r\n\r\n", b"content-length: 1\r\n", b"transfer-encoding: x\r\n")
                )
            case _:
                result[at:end] = draw.randbytes(end - at)
        if not result:
            result = bytearray(b"x")
    return bytes(result)


def read_by_h11(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of an answer that h11 takes, or None."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        connection.receive_data(data)
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None


def test_a_changed_answer_is_read_as_others_read_it_or_not_at_all() -> None:
    draw = random.Random(12)
    taken = refused = 0
    for _ in range(700):
        data = changed(draw, draw.choice(list(WHOLE.values()))[0])
        at_once, slowly = read([data]), read(each_byte(data))
        if at_once.whole and data.endswith((b"\r", b"\n")):  # the parser skips empty lines after an answer
            at_once = dataclasses.replace(at_once, keeps_alive=slowly.keeps_alive)
        assert slowly == at_once or slowly.whole is at_once.whole is False, data
        by_h11 = read_by_h11(data)
        if at_once.whole and by_h11 is not None:
            assert (at_once.status, at_once.body) == by_h11, data
            taken += 1
        refused += not at_once.whole
    assert taken > 100
    assert refused > 100
