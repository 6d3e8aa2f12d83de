"""Single values of specs: sources, durations, engine arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import date
from fractions import Fraction
from pathlib import Path

import yaml
from google.protobuf.duration_pb2 import Duration

from protocol import sources
from protocol.engine_text_args import is_text
from protocol.validation import shorten

PairParser = Callable[[str], tuple[str, object]]
"""Splits one command line argument into name and value, or raises ValueError."""

_DURATION = re.compile(r"(?=.)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?")
_DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

_EXACT_MAX = 1 << 53
"""Whole numbers up to here are exact as floating-point numbers, too."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def source_uri(text: str, base: Path) -> str:
    """The URI that `text` means: URIs stay, paths become `file:///…`.

    Args:
        text: `hf://org/name`, `file:///absolute`, `file:relative`, or a path.
        base: Directory that a relative path is relative to.

    Raises:
        ValueError: The path has characters that file URIs may not have here. Or it is relative,
            does not begin with `file:` and does not exist: it may be a mistyped `hf://` source.
    """
    if text.startswith("file:") and not text.startswith("file://"):
        return file_uri(text.removeprefix("file:"), base)
    if _SCHEME.match(text):
        return text
    if not text.startswith(("/", "~")) and not (base / text).exists():
        raise ValueError(
            f"got {shorten(text)}: there is no such path in {base}; "
            "expected hf://org/name, file:///absolute/directory or an existing path"
        )
    return file_uri(text, base)


def parse_duration(text: str) -> Duration:
    """`300s`, `5m`, `1h30m`, `1.5s`, `250ms`, or a plain number of seconds.

    Raises:
        ValueError: It is not a duration.
    """
    match = _DURATION.fullmatch(text)
    try:
        if match is not None and match.group(0):
            hours, minutes, seconds, milliseconds = (Fraction(group or 0) for group in match.groups())
            return duration_of(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
        if _SECONDS.fullmatch(text):
            return duration_of(Fraction(text))
    except ValueError:
        pass  # above the range of protobuf
    raise ValueError(f"got {shorten(text)}; expected a duration such as 300s, 5m, 1h30m or 250ms")


def parse_argument(text: str) -> tuple[str, object]:
    """Split an engine argument such as `max_model_len=2048`. The value is read as YAML.

    That of an argument of text stays as it is written, if YAML reads a number, or true or false.

    Raises:
        ValueError: There is no `=`, the value is not YAML, or has a number that is not decimal.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"got {shorten(text)}; expected NAME=VALUE")
    try:
        read = yaml.safe_load(value) if value else ""
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # `2026-13-45` looks like a date to YAML
        if is_text(name):
            return name, value
        raise ValueError(f"{name}: got {shorten(value)}, which is not YAML") from error
    if is_text(name):
        return name, value if isinstance(read, bool | int | float | date) else read
    for number in _plain_numbers(value):
        if not is_decimal(number):
            raise ValueError(f"{name}: got {shorten(number)}; expected a decimal number, or text in quotes")
    return name, read


def _plain_numbers(text: str) -> Iterator[str]:
    """The numbers in YAML, as they are written."""
    pending = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    seen = set()  # an alias may lead to what is around it
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            pending.extend(item for pair in node.value for item in pair)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)
        elif isinstance(node, yaml.ScalarNode) and node.tag in _NUMBER_TAGS:
            yield node.value


def is_number(value: object) -> bool:
    """Whether a value that YAML has read is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def is_decimal(text: str) -> bool:
    """Whether people and YAML read a number alike, as none of `0123`, `0x10`, `1_000`, `1:30`."""
    return _DECIMAL.fullmatch(text) is not None


def read_as(number: object) -> str:
    """What YAML reads, for an error. Empty: too long to be shown."""
    return f" such as {number}" if isinstance(number, int | float) and abs(number) <= _EXACT_MAX else ""


def whole_text(text: str) -> str:
    """`text` with each pair of surrogates, as `json.dump` escapes an emoji, made one character.

    Raises:
        ValueError: It has half of a pair, which no message can hold. Python also makes such halves
            of arguments and file names that are not UTF-8.
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shorten(text)}, which is half of a surrogate pair, or was not UTF-8") from error


def file_uri(text: str, base: Path) -> str:
    """The `file:///` URI of a path.

    Raises:
        ValueError: The path has characters that file URIs may not have here, or begins with the
            home directory of a user who has none.
    """
    # Path.as_uri would percent-encode. The planes take the path literally, and reject a path that
    # could be read in two ways.
    try:
        uri = f"{sources.FILE_SCHEME}{(base / Path(text).expanduser()).resolve()}"
    except RuntimeError as error:
        raise ValueError(f"got {shorten(text)}: that home directory is not known; give an absolute path") from error
    try:
        sources.file_path(uri)
    except ValueError as error:
        raise ValueError(f"got {shorten(text)}: {error}") from error
    return uri


def duration_of(seconds: Fraction) -> Duration:
    """A protobuf duration.

    Raises:
        ValueError: It is outside the range of protobuf.
    """
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1_000_000_000))
    return duration
