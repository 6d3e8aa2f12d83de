"""Single fields of requests, from the types that users pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from broadsheet import specs
from broadsheet.errors import InvalidSpec
from broadsheet.types import Source
from protocol.validation import FieldViolation

_MessageT = TypeVar("_MessageT", bound=Message)


def message_or_none(value: Message | Mapping[str, object] | None, into: _MessageT, path: str) -> _MessageT | None:
    """`specs.to_message`, for an optional argument."""
    return specs.to_message(value, into, path) if value is not None else None


def source(value: str | PathLike[str] | Source) -> Source:
    """The source of an adapter. Relative paths are relative to the working directory.

    Raises:
        InvalidSpec: A relative path does not exist.
    """
    if isinstance(value, Source):
        return value
    try:
        return Source(uri=specs.source_uri(fspath(value), Path.cwd()))
    except ValueError as error:
        violation = FieldViolation(field="source", description=str(error))
        raise InvalidSpec("source is not valid", violations=(violation,)) from error


def mask(paths: Iterable[str] | None, given: Mapping[str, object]) -> FieldMask:
    """The update mask.

    Args:
        paths: What the caller asked for. None: the fields of `given` that are not None.
        given: The values by path.
    """
    present = (path for path, value in given.items() if value is not None)
    return FieldMask(paths=list(present if paths is None else paths))


def duration(seconds: float) -> Duration:
    """A protobuf duration."""
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A protobuf timestamp. A time without a zone is local time."""
    if moment is None:
        return None
    value = Timestamp()
    value.FromDatetime(moment.astimezone(UTC))
    return value
