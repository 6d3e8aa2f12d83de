"""Multipart forms with a model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dataplane.ingress.bodies.splice import Edit
from dataplane.openai import errors as openai_errors

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

    @property
    def streams(self) -> bool:
        return self.is_true(b"stream")

    def is_true(self, name: bytes) -> bool:
        """Whether a field is given and true, as the engine reads it."""
        return self.fields.get(name, b"").lower() in _TRUE

    def asking_for(self, model: str) -> Edit:
        return Edit(self.start, self.end, model.encode())


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
