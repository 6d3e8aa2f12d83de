"""The few frames of HTTP/2 (RFC 9113) and gRPC that an attacker needs, written by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.hostile.attacker import Attacker, Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_BYTES = 65_535

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
INITIAL_WINDOW_SIZE = 4

_FRAME_HEAD_BYTES = 9
_FRAME_BYTES_MAX = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header as HPACK, in full: not indexed, not compressed (RFC 7541 §6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    length -= 127
    encoded = b"\x7f"
    while length >= 128:
        encoded += bytes([length % 128 + 128])
        length //= 128
    return encoded + bytes([length]) + text


def call_fields(method: str, *more: tuple[bytes, bytes]) -> bytes:
    """The headers of a gRPC call of `/service/Method`, as HPACK."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    )
    return b"".join(field(name, value) for name, value in fields)


def message(content: bytes, *, compressed: bool = False, claimed_bytes: int | None = None) -> bytes:
    """A gRPC message with its prefix, which may claim another length."""
    length = len(content) if claimed_bytes is None else claimed_bytes
    return struct.pack(">?I", compressed, length) + content


def data_frames(stream: int, content: bytes, *, end: bool = False) -> bytes:
    """Content of a stream, cut into frames."""
    pieces: Sequence[bytes] = [
        content[start : start + _FRAME_BYTES_MAX] for start in range(0, len(content), _FRAME_BYTES_MAX)
    ]
    return b"".join(
        frame(DATA, END_STREAM if end and number == len(pieces) - 1 else 0, stream, piece)
        for number, piece in enumerate(pieces)
    )


class Caller:
    """A connection to a gRPC server. It obeys the server's windows, so that it is not closed."""

    def __init__(self, attacker: Attacker, *, settings: bytes = b"") -> None:
        """
        Args:
            attacker: Opens the connection.
            settings: Payload of the first SETTINGS.
        """
        self.connection: Connection = attacker.open()
        self.connection.send(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._window = self._stream_window = WINDOW_BYTES
        self._sent_bytes: dict[int, int] = {}
        self._granted_bytes: dict[int, int] = {}
        self._last_stream = -1
        self._received = b""

    def call(self, fields: bytes, content: bytes = b"", *, end: bool = False) -> int:
        """Begin a call with the beginning of its content, which has to fit into the window."""
        self._last_stream += 2
        flags = END_HEADERS | (END_STREAM if end and not content else 0)
        self.connection.send(frame(HEADERS, flags, self._last_stream, fields))
        self._sent_bytes[self._last_stream] = 0
        if content:
            self.send(self._last_stream, content, end=end)
        return self._last_stream

    def reset(self, stream: int) -> None:
        self.connection.send(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
        self._sent_bytes.pop(stream, None)

    def room(self, stream: int) -> int:
        """How many bytes the server would take of this stream now."""
        own = self._stream_window + self._granted_bytes.get(stream, 0) - self._sent_bytes[stream]
        return max(0, min(own, self._window))

    def send(self, stream: int, content: bytes, *, end: bool = False) -> None:
        """Send content of a call."""
        self._sent_bytes[stream] += len(content)
        self._window -= len(content)
        self.connection.send(data_frames(stream, content, end=end))

    def take(self) -> None:
        """Read what has come: windows grow, settings and pings are acknowledged."""
        self._received += self.connection.read()
        while len(self._received) >= _FRAME_HEAD_BYTES:
            end = _FRAME_HEAD_BYTES + int.from_bytes(self._received[:3], "big")
            if len(self._received) < end:
                return
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9], "big")
            self._take_frame(kind, flags, stream, self._received[_FRAME_HEAD_BYTES:end])
            self._received = self._received[end:]

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for start in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[start : start + 6])
                if name == INITIAL_WINDOW_SIZE:
                    self._stream_window = value
            self.connection.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.connection.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE:
            self._granted_bytes[stream] = self._granted_bytes.get(stream, 0) + int.from_bytes(payload, "big")
