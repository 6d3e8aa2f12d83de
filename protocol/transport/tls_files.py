"""Certificates and keys on disk: checked when read, and read again when replaced.

Both planes use this. Files are replaced one after the other, so for a moment certificate and key
may not match. A pair that does not match is never used; the previous pair stays in use.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

_KEY_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")


class TlsFilesError(ValueError):
    """A file cannot be used. The message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The content of the files."""

    chain: bytes
    """PEM: the certificate and the intermediate certificates up to its authority."""
    key: bytes = field(repr=False)
    """PEM."""
    client_ca: bytes | None
    """PEM: the authorities of client certificates. None: client certificates are not requested."""


class TlsFiles:
    """Certificate, key, and the authorities of client certificates. Thread-safe."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        """Store the paths; nothing is read yet.

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
        """The current content of the files.

        Raises:
            TlsFilesError: The files cannot be used.
        """
        with self._lock:
            self._seen = self._identity()
            return self._load()

    def changed(self) -> Certificate | None:
        """The current content of the files if it changed since the last call, else None.

        Raises:
            TlsFilesError: It changed and cannot be used. Raised once for each change.
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
            # Without a callback, OpenSSL would ask for a password at the terminal.
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


class AuthoritiesFile:
    """The authorities that a client verifies servers with."""

    def __init__(self, file: Path) -> None:
        """Store the path; nothing is read yet.

        Args:
            file: PEM file.
        """
        self._file = file
        self._seen: object = None

    def read(self) -> bytes:
        """The current content: PEM.

        Raises:
            TlsFilesError: It cannot be used.
        """
        self._seen = _identity(self._file)
        content = _content(self._file)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise TlsFilesError(f"{self._file} holds no certificate in PEM form") from error
        return content

    def changed(self) -> bytes | None:
        """The current content if it changed since the last call, else None.

        Raises:
            TlsFilesError: It changed and cannot be used. Raised once for each change.
        """
        return None if _identity(self._file) == self._seen else self.read()


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
