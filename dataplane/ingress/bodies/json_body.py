"""JSON bodies: one scan finds all that the ingress needs of them. Pure."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass

import msgspec

from dataplane.ingress.bodies.splice import Edit, offset_in
from dataplane.openai import errors as openai_errors

_DECODED_BYTES = 64 * 1024
"""Bytes of a body whose text is held at a time: text may take four times the memory."""


class _Fields(msgspec.Struct):
    # The values are decoded in a second step, to distinguish an invalid model from an invalid body.
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream: msgspec.Raw = msgspec.Raw()
    stream_options: msgspec.Raw = msgspec.Raw()
    user: msgspec.Raw = msgspec.Raw()


_FIELDS = msgspec.json.Decoder(_Fields)
_STRING = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class JsonBody:
    """A JSON object with a `model`. Of fields that are repeated, the last one counts."""

    raw: bytes
    model: str
    streams: bool
    """Whether `stream` is true."""
    _fields: _Fields
    """As they are written: views of `raw`."""

    def user(self) -> str | None:
        try:
            return _STRING.decode(self._fields.user)
        except msgspec.DecodeError:
            return None  # absent or not a string; the engine decides whether that is an error

    def asking_for(self, model: str) -> Edit:
        return self._replacing(self._fields.model, msgspec.json.encode(model))

    @property
    def stream_options(self) -> bytes:
        """The value of `stream_options` as it is written; empty: there is none."""
        return bytes(self._fields.stream_options)

    def with_stream_options(self, value: bytes) -> Edit:
        """The edit that gives `stream_options` another value."""
        if self.stream_options:
            return self._replacing(self._fields.stream_options, value)
        end = self.raw.rindex(b"}")
        return Edit(end, end, b',"stream_options":' + value)

    def _replacing(self, written: msgspec.Raw | msgspec.UnsetType, value: bytes) -> Edit:
        assert not isinstance(written, msgspec.UnsetType), "it has the field"
        start = offset_in(self.raw, written)
        return Edit(start, start + len(memoryview(written)), value)


def parse_json(raw: bytes) -> JsonBody:
    """Find the `model` of a JSON body, and what else the ingress looks at.

    The last of repeated `model` keys counts, as in Python's json module, which vLLM uses. That
    module would also guess the encoding; here it is UTF-8, as RFC 8259 has it. All of it is
    checked, because msgspec does not look into the strings that it passes over.

    Raises:
        InvalidJson, BodyNotObject, ModelMissing, ModelNotString
    """
    try:
        fault = _utf8_fault(raw)
        if fault:
            raise openai_errors.InvalidJson(fault)
        fields = _FIELDS.decode(raw)
        if isinstance(fields.model, msgspec.UnsetType):
            raise openai_errors.ModelMissing
        return JsonBody(raw, _decode_model(fields.model), bytes(fields.stream) == b"true", fields)
    except msgspec.ValidationError:
        raise openai_errors.BodyNotObject from None
    except msgspec.DecodeError as error:
        raise openai_errors.InvalidJson(_other_encoding(raw) or str(error)) from None
    except RecursionError:
        raise openai_errors.InvalidJson("it is nested too deeply") from None


def _utf8_fault(raw: bytes) -> str:
    """Why `raw` is not UTF-8; empty: it is."""
    if raw.isascii():
        return ""
    start = 0
    while start < len(raw):
        piece = raw[start : start + _DECODED_BYTES]
        try:
            _, used = codecs.utf_8_decode(piece, "strict", start + len(piece) == len(raw))
        except UnicodeDecodeError as error:
            return _other_encoding(raw) or f"it is not UTF-8: {error.reason} (byte {start + error.start})"
        start += used
    return ""


def _other_encoding(raw: bytes) -> str:
    """The fault of an invalid body's encoding, by its first bytes; empty: there is none."""
    encoding = json.detect_encoding(raw)
    if encoding == "utf-8-sig":
        return "it begins with a byte order mark (BOM); send UTF-8 without it"
    return "" if encoding == "utf-8" else f"it is in {encoding[:6].upper()}; send it in UTF-8"


def _decode_model(field: msgspec.Raw) -> str:
    try:
        return _STRING.decode(field)
    except msgspec.ValidationError:
        raise openai_errors.ModelNotString from None
