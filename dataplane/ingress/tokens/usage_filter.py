"""Takes usage out of a stream whose caller did not ask for it. Pure.

What is left is byte for byte what vLLM would have sent: its events are compact JSON, so a field
that is taken out leaves no trace. One field moves: without usage, vLLM writes its
`system_fingerprint` into the last event of each choice; with usage, into the event that has nothing
but usage. So the last events of choices are held back until that one comes, which is at once if
there is a single choice.
"""

from __future__ import annotations

import msgspec

from dataplane.ingress.tokens.usage_request import Unasked

_UNFINISHED_BYTES_MAX = 1024 * 1024
"""Bytes of an event, and of events held back. Beyond that, everything passes as it is."""
_END = b"\n\n"
_DATA = b"data: "


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    system_fingerprint: msgspec.Raw = msgspec.Raw()


_events = msgspec.json.Decoder(_Event)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class UsageFilter:
    """Filters one stream of events."""

    def __init__(self, unasked: Unasked) -> None:
        self._unasked = unasked
        self._unfinished = b""
        self._held: list[tuple[bytes, bool]] = []
        """Events that wait for the fingerprint, and whether each ends a choice."""
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """What the caller gets of the next chunk."""
        *whole, self._unfinished = (self._unfinished + chunk).split(_END)
        passed = b"".join(map(self._pass, whole))
        if len(self._unfinished) > _UNFINISHED_BYTES_MAX or self._held_bytes > _UNFINISHED_BYTES_MAX:
            passed += self.end()
        return passed

    def end(self) -> bytes:
        """What the caller still gets, because nothing more comes."""
        passed = self._release(b"") + self._unfinished
        self._unfinished = b""
        return passed

    def _pass(self, lines: bytes) -> bytes:
        event = lines + _END
        if not event.startswith(_DATA + b"{"):
            return self._release(b"") + event  # [DONE], or a comment
        try:
            parsed = _events.decode(event[len(_DATA) :])
        except msgspec.DecodeError:
            return self._release(b"") + event
        if parsed.choices is None:
            return self._release(b"") + event  # an error
        if not parsed.choices and bytes(parsed.usage):
            return self._release(bytes(parsed.system_fingerprint)) if self._unasked is Unasked.ALL else event
        usage = bytes(parsed.usage)
        without = _without_usage(event, usage) if usage else event
        ends_choice = False
        for choice in parsed.choices:
            ends_choice = ends_choice or choice.finish_reason is not None
        if self._unasked is Unasked.ALL and (self._held or ends_choice):
            self._held.append((without, ends_choice))
            self._held_bytes += len(without)
            return b""
        return without

    def _release(self, fingerprint: bytes) -> bytes:
        held, self._held, self._held_bytes = self._held, [], 0
        if fingerprint in (b"", b"null"):
            return b"".join([event for event, _ in held])
        return b"".join([_with_fingerprint(event, fingerprint) if ends else event for event, ends in held])


def _without_usage(event: bytes, usage: bytes) -> bytes:
    # As vLLM writes it. It cannot be within a text, where quotation marks have a backslash before
    # them; if it is there twice, one of them is in another object.
    written = b',"usage":' + usage
    if event.count(written) == 1:
        return event.replace(written, b"")
    fields = _fields.decode(event[len(_DATA) :])
    del fields["usage"]
    return _DATA + msgspec.json.encode(fields) + _END


def _with_fingerprint(event: bytes, fingerprint: bytes) -> bytes:
    fields = _fields.decode(event[len(_DATA) :])
    fields["system_fingerprint"] = msgspec.Raw(fingerprint)
    return _DATA + msgspec.json.encode(fields) + _END
