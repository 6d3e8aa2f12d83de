"""The file of a backup: rows of all tables, for either kind of database.

gzip over lines of JSON. The first is a header; then each table's name and columns, followed by its
rows; the last one has the number of rows and the SHA-256 of all lines before it, so that a file
that was cut or changed is noticed.
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
"""No row comes near; a file that is none of ours may."""

_BYTES = "base64"
"""Key of an object that stands for bytes, which JSON does not have."""

_JSON = "json"
"""Key of an object that holds what is an object itself, such as labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a backup is of."""

    schema: str
    """The migration that its tables are of."""
    store_uid: str
    """Identity of the store that it was made of."""
    catalog_revision: int
    create_time: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows that follow are of this table."""

    name: str
    columns: Sequence[str]


class BackupWriter:
    """Writes the lines of a backup."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.rows = 0
        """So many were written."""

    def begin(self, header: Header) -> None:
        """The first line."""
        self._write({"format": _FORMAT, "version": _VERSION, **asdict(header)})

    def table(self, name: str, columns: Sequence[str]) -> None:
        """The rows that follow are of this table."""
        self._write({"table": name, "columns": list(columns)})

    def row(self, values: Sequence[object]) -> None:
        """A row of the table that was begun last."""
        self._write([_encoded(one) for one in values])
        self.rows += 1

    def end(self) -> None:
        """The last line."""
        self._write({"rows": self.rows, "sha256": self._hash.hexdigest()})

    def _write(self, content: object) -> None:
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        self._hash.update(line)
        self._stream.write(line)


@contextmanager
def new_backup(path: Path) -> Iterator[BackupWriter]:
    """Write a backup to `path`, where it is when the block has ended well, and nothing is
    otherwise.

    Raises:
        SetupError: there is something already, or it can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists():
            raise SetupError(f"{path} exists already")
        # It holds hashes of keys, and whatever cards and labels say.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, filename="", mtime=0) as stream:
                    yield BackupWriter(stream)
                file.flush()
                os.fsync(file.fileno())
            # Fails, rather than replaces, when another has made the file meanwhile.
            os.link(partial, path)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror or error}") from None


def read_header(path: Path) -> Header:
    """Check the whole file, and say what it is of.

    Raises:
        SetupError: it can't be read, is damaged, or was written by a newer release.
    """
    header = None
    for item in _items(path):
        if isinstance(item, Header):
            header = item
    assert header is not None, "the first line is checked"
    return header


def read_rows(path: Path) -> Iterator[tuple[Table, Mapping[str, Any]]]:
    """Every row, with the table that it is of.

    Raises:
        SetupError: the file is damaged; known for sure only at its end.
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
            yield [_decoded(one) for one in content]
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
