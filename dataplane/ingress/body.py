"""Reads request bodies, and finds the `model` in them."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import Receive

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_FORM_PARTS_MAX = 1000
"""Parts of a form. Starlette, and so the engine, accepts no more either."""
_FORM_HEADER_BYTES_MAX = 128 * 1024
"""Headers of all parts of a form: the event loop waits 0.1 s for their splitting."""
_FORM_FIELD_BYTES_MAX = 64
_FORM_FIELDS_MAX = 100
"""Fields of a form that are kept, and bytes of each: enough for switches."""
_TRUE = frozenset((b"1", b"true", b"t", b"yes", b"y", b"on"))
"""What pydantic takes for true in a form, in lower case."""
_DECODED_BYTES = 64 * 1024
"""Bytes of a body whose text is held at a time: text may take four times the memory."""


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
    chunks: list[bytes] = []
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
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class Body(Protocol):
    """A request body with a known model."""

    @property
    def raw(self) -> bytes:
        """The bytes as received."""
        ...

    @property
    def model(self) -> str:
        """The value of `model`."""
        ...

    def user(self) -> str | None:
        """The value of OpenAI's `user`, if the body has one and it is a string."""
        ...

    def asking_for(self, model: str) -> bytes:
        """The body with another model. The bytes of every other value are unchanged."""
        ...


@dataclass(frozen=True, slots=True)
class JsonBody:
    """A JSON object with a `model`."""

    raw: bytes
    model: str

    def user(self) -> str | None:
        try:
            return _USER_ONLY.decode(self.raw).user
        except msgspec.ValidationError:
            return None  # not a string; the engine decides whether that is an error

    def asking_for(self, model: str) -> bytes:
        fields = _FIELDS.decode(self.raw)
        fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        return msgspec.json.encode(fields)


@dataclass(frozen=True, slots=True)
class FormBody:
    """A multipart form with one `model` field. Its value is raw[start:end]."""

    raw: bytes
    model: str
    start: int
    end: int
    boundary: bytes
    fields: Mapping[bytes, bytes]
    """Short fields, by name. Of a name that is repeated, the last one."""

    def user(self) -> str | None:
        return None  # OpenAI's forms have no `user`

    def is_true(self, name: bytes) -> bool:
        """Whether a field is given and true, as the engine reads it."""
        return self.fields.get(name, b"").lower() in _TRUE

    def asking_for(self, model: str) -> bytes:
        return self.raw[: self.start] + model.encode() + self.raw[self.end :]


class _ModelOnly(msgspec.Struct):
    # The value is decoded in a second step, to distinguish an invalid model from an invalid body.
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _UserOnly(msgspec.Struct):
    user: str | None = None


_USER_ONLY = msgspec.json.Decoder(_UserOnly)
_MODEL_ONLY = msgspec.json.Decoder(_ModelOnly)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING = msgspec.json.Decoder(str)


def parse_json(raw: bytes) -> JsonBody:
    """Find the `model` of a JSON body.

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
        field = _MODEL_ONLY.decode(raw).model
        if isinstance(field, msgspec.UnsetType):
            raise openai_errors.ModelMissing
        return JsonBody(raw, _decode_model(field))
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


def parse_form(raw: bytes, content_type: bytes) -> FormBody:
    """Find the `model` of a multipart body.

    A form with two models is refused, because parsers differ in which one counts.

    Raises:
        InvalidForm, ModelMissing
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise openai_errors.InvalidForm("its content type has to be multipart/form-data with a boundary")
    # The engine decodes names and values by this charset. Only UTF-8 is certain to give the engine
    # the same model as here.
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise openai_errors.InvalidForm("its charset has to be UTF-8")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(raw)
        parser.finalize()
    except FormParserError:
        raise openai_errors.InvalidForm("it cannot be split at its boundaries") from None
    if not form.complete:
        raise openai_errors.InvalidForm("it ends before its last boundary")
    if not form.models:
        raise openai_errors.ModelMissing
    if len(form.models) > 1:
        raise openai_errors.InvalidForm("it has more than one model")
    [(start, end)] = form.models
    try:
        fields = {name: raw[slice(*span)] for name, span in form.fields.items()}
        return FormBody(raw, raw[start:end].decode(), start, end, boundary, fields)
    except UnicodeDecodeError:
        raise openai_errors.InvalidForm("its model is not UTF-8") from None


class _Form:
    """Finds the values of `model`.

    The parser gets the whole body at once, so the offsets in its callbacks are offsets in the body.
    """

    def __init__(self) -> None:
        self.complete = False
        self.models: list[tuple[int, int]] = []
        self.fields: dict[bytes, tuple[int, int]] = {}
        self._parts = 0
        self._header_bytes = 0
        self._name = b""
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._span: tuple[int, int] | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda text, start, end: self._header.extend(text[start:end]),
            "on_header_value": lambda text, start, end: self._value.extend(text[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": self._extend_part,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _FORM_PARTS_MAX:
            raise openai_errors.InvalidForm(f"it has more than {_FORM_PARTS_MAX} parts")
        self._disposition, self._span = b"", None

    def _end_header(self) -> None:
        self._header_bytes += len(self._header) + len(self._value)
        if self._header_bytes > _FORM_HEADER_BYTES_MAX:
            raise openai_errors.InvalidForm(
                f"the headers of its parts have more than the {_FORM_HEADER_BYTES_MAX} bytes that are allowed"
            )
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _extend_part(self, text: bytes, start: int, end: int) -> None:
        self._span = (start if self._span is None else self._span[0], end)

    def _end_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") == b"model":
            if b"filename" in options:
                raise openai_errors.InvalidForm("its model is a file")
            self.models.append(self._span or (0, 0))
        start, end = self._span or (0, 0)
        if end - start <= _FORM_FIELD_BYTES_MAX and len(self.fields) < _FORM_FIELDS_MAX and b"filename" not in options:
            self.fields[options.get(b"name", b"")] = start, end

    def _end(self) -> None:
        self.complete = True
