"""The format of a backup file: the rows of all tables, for either kind of database.

It is lines of JSON, compressed with gzip. The first line is a header. Each table is a line with its
name and columns, followed by its rows. The last line has the number of rows and the SHA-256 of all
lines before it, so a file that was cut or changed is detected.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from controlplane.errors import SetupError

_FORMAT = "broadsheet-backup"
_VERSION = 1

_LINE_BYTES_MAX = 64 * 1024 * 1024
"""Far longer than any row. Bounds the memory for a file that is no backup."""

_BYTES = "base64"
"""Key of an object that stands for bytes, which JSON lacks."""

_JSON = "json"
"""Key of an object that holds a value that is an object or an array, such as labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a backup was made of."""

    schema: str
    """The migration that its tables are at."""
    store_uid: str
    """Identity of the store that was backed up."""
    catalog_revision: int
    create_time: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table. The rows that follow belong to it."""

    name: str
    columns: Sequence[str]


class BackupWriter:
    """Writes the lines of a backup."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.rows = 0
        """Rows written so far."""

    def begin(self, header: Header) -> None:
        """Write the first line."""
        self._write({"format": _FORMAT, "version": _VERSION, **asdict(header)})

    def table(self, name: str, columns: Sequence[str]) -> None:
        """Begin a table. The rows that follow belong to it."""
        self._write({"table": name, "columns": list(columns)})

    def row(self, values: Sequence[object]) -> None:
        """Write a row of the table that was begun last."""
        self._write([_encoded(value) for value in values])
        self.rows += 1

    def end(self) -> None:
        """Write the last line."""
        self._write({"rows": self.rows, "sha256": self._hash.hexdigest()})

    def _write(self, content: object) -> None:
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        self._hash.update(line)
        self._stream.write(line)


@contextmanager
def new_backup(path: Path) -> Iterator[BackupWriter]:
    """Write a backup to `path`. The file appears when the block ends without an exception.

    Raises:
        SetupError: There is a file already, or it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists():
            raise SetupError(f"{path} exists already")
        # A backup holds hashes of keys, and the contents of cards and labels.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, filename="", mtime=0) as stream:
                    yield BackupWriter(stream)
                file.flush()
                os.fsync(file.fileno())
            # link() fails if the file exists by now, where rename() would replace it.
            os.link(partial, path)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror or error}") from None


def read_header(path: Path) -> Header:
    """Check the whole file, and return its header.

    Raises:
        SetupError: It cannot be read, is damaged, or was written by a newer release.
    """
    header = None
    for item in _items(path):
        if isinstance(item, Header):
            header = item
    assert header is not None, "the first line is checked"
    return header


def read_rows(path: Path) -> Iterator[tuple[Table, Mapping[str, Any]]]:
    """Every row, with its table.

    Raises:
        SetupError: The file is damaged. Damage may be detected only at the end of the file.
    """
    table: Table | None = None
    for item in _items(path):
        if isinstance(item, Table):
            table = item
        elif not isinstance(item, Header):
            if table is None or len(item) != len(table.columns):
                raise _damaged(path)
            yield table, dict(zip(table.columns, item, strict=True))


def _items(path: Path) -> Iterator[Header | Table | Sequence[Any]]:
    try:
        with gzip.open(path, "rb") as stream:
            yield from _parsed(path, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, TypeError, KeyError, binascii.Error):
        raise _damaged(path) from None
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror or error}") from None


def _parsed(path: Path, stream: BinaryIO | gzip.GzipFile) -> Iterator[Header | Table | Sequence[Any]]:
    digest = hashlib.sha256()
    rows = 0
    first = True
    while True:
        line = stream.readline(_LINE_BYTES_MAX)
        content = json.loads(line)
        if first:
            digest.update(line)
            yield _header(path, content)
            first = False
        elif isinstance(content, list):
            digest.update(line)
            rows += 1
            yield [_decoded(value) for value in content]
        elif "table" in content:
            digest.update(line)
            yield Table(name=content["table"], columns=content["columns"])
        else:
            if content != {"rows": rows, "sha256": digest.hexdigest()} or stream.read(1):
                raise _damaged(path)
            return


def _encoded(value: object) -> object:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    return {_JSON: value} if isinstance(value, dict | list) else value


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return base64.b64decode(value[_BYTES], validate=True) if _BYTES in value else value[_JSON]


def _header(path: Path, content: dict[str, Any]) -> Header:
    if content.pop("format") != _FORMAT:
        raise _damaged(path)
    version = content.pop("version")
    if version != _VERSION:
        raise SetupError(f"{path}: a backup of version {version}; this release reads version {_VERSION}")
    return Header(**content)


def _damaged(path: Path) -> SetupError:
    return SetupError(f"{path}: damaged, or no backup of Broadsheet")
