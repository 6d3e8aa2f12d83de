"""A server's certificate and key on disk: checked when they are read, and read again when they were
replaced.

Both planes use this. Whoever replaces the files writes one after the other, so for a moment they do
not fit together: what does not fit is never used, and the pair before goes on to count.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

_KEY_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")


class TlsFilesError(ValueError):
    """A file cannot be used. The message says which, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What the files held."""

    chain: bytes
    """PEM: the certificate and those that lead to its authority."""
    key: bytes = field(repr=False)
    """PEM."""
    client_ca: bytes | None
    """PEM: the authorities of client certificates. None: none are asked for."""


class TlsFiles:
    """Certificate, key, and the authorities that clients are checked by. Any thread may use it."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        """
        Args:
            cert: PEM file with the certificate chain.
            key: PEM file with its key, without a password.
            client_ca: PEM file with the authorities of client certificates.
        """
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._seen: object = None
        self._lock = threading.Lock()

    def read(self) -> Certificate:
        """What the files hold now.

        Raises:
            TlsFilesError: they cannot be used.
        """
        with self._lock:
            self._seen = self._identity()
            return self._load()

    def changed(self) -> Certificate | None:
        """What the files hold now, if that is not what was there at the last look.

        Raises:
            TlsFilesError: it changed, and cannot be used. Said once for each change.
        """
        with self._lock:
            seen = self._identity()
            if seen == self._seen:
                return None
            self._seen = seen
            return self._load()

    def _load(self) -> Certificate:
        before = self._identity()
        loaded = Certificate(
            chain=_content(self._cert),
            key=_content(self._key),
            client_ca=_content(self._client_ca) if self._client_ca is not None else None,
        )
        self._check()
        if self._identity() != before:
            self._seen = None
            raise TlsFilesError(f"{self._cert} or {self._key} changed while they were read")
        return loaded

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # The password would be asked for at the terminal.
            context.load_cert_chain(self._cert, self._key, password=lambda: b"")
        except ssl.SSLError as error:
            if error.reason in _KEY_MISMATCH:
                raise TlsFilesError(f"{self._key} is not the key of the certificate in {self._cert}") from error
            raise TlsFilesError(
                f"{self._cert} and {self._key} are not a certificate and a key in PEM form, without a password"
            ) from error
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except ssl.SSLError as error:
                raise TlsFilesError(f"{self._client_ca} holds no certificate in PEM form") from error

    def _identity(self) -> object:
        return tuple(_identity(file) for file in (self._cert, self._key, self._client_ca) if file is not None)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TlsFilesError(f"{file}: {error.strerror}") from error


def _identity(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)
