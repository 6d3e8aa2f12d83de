"""Files with signing keys and trusted keys: read, read again when they change, and made.

Private keys are PEM (PKCS #8), in a file or in the `*.pem` files of a directory, and only their
owner and its group may read them. Public keys are PEM (SubjectPublicKeyInfo) in one file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.signing.keys import KEY_FILE_BYTES_MAX, KEYS_MAX, PrivateKey, parse_private_keys, parse_public_keys
from protocol.signing.signatures import Signer, Verifier

SUFFIX = ".pem"
"""Of the files of a directory that have keys in them."""

_OTHERS = stat.S_IRWXO

T = TypeVar("T")


class KeyFilesError(ValueError):
    """A file cannot be used. The message says which and why, and shows nothing of the keys."""


class KeyFiles(Generic[T]):
    """What is read from a file or a directory, and read again when that changes.

    Not thread-safe.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        """Store the path; nothing is read yet.

        Args:
            path: The file or directory.
            read: `read_signer` or `read_verifier`.
        """
        self._path = path
        self._read = read
        self._seen: object = None

    @property
    def path(self) -> Path:
        """The file or directory."""
        return self._path

    def read(self) -> T:
        """The current content.

        Raises:
            KeyFilesError: It cannot be used.
        """
        self._seen = before = _identity(self._path)
        content = self._read(self._path)
        # Reading may take a permission away from a file, which changes its identity.
        after = _identity(self._path)
        if _content_part(after) != _content_part(before):
            self._seen = None
            raise KeyFilesError(f"{self._path} changed while it was read")
        self._seen = after
        return content

    def changed(self) -> T | None:
        """The current content if it changed since the last call, else None.

        Raises:
            KeyFilesError: It changed and cannot be used. Raised once for each change.
        """
        return None if _identity(self._path) == self._seen else self.read()


def read_private_keys(path: Path) -> tuple[PrivateKey, ...]:
    """The private keys in a file, or in the `*.pem` files of a directory, by file name.

    Raises:
        KeyFilesError: They cannot be used.
    """
    keys = tuple(key for file in private_key_files(path) for key in parsed(file, parse_private_keys, private=True))
    if not 1 <= len(keys) <= KEYS_MAX:
        raise KeyFilesError(f"{path}: got {len(keys)} private keys; allowed are 1 to {KEYS_MAX}")
    ids = [key.public.id for key in keys]
    for key_id in ids:
        if ids.count(key_id) > 1:
            raise KeyFilesError(f"{path}: key {key_id} is there twice")
    return keys


def private_key_files(path: Path) -> tuple[Path, ...]:
    """The files that `path` stands for: itself, or the `*.pem` files of the directory.

    Raises:
        KeyFilesError: The directory cannot be read, or others can change it.
    """
    if not path.is_dir():
        return (path,)
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise KeyFilesError(f"{path}: others can put keys into it; chmod o-w {path}")
        # A Kubernetes mount keeps its former content below names that begin with a dot.
        names = sorted(file for file in path.iterdir() if file.suffix == SUFFIX and not file.name.startswith("."))
    except OSError as error:
        raise KeyFilesError(f"{path}: {error.strerror}") from error
    if len(names) > KEYS_MAX:
        raise KeyFilesError(f"{path}: got {len(names)} files *{SUFFIX}; allowed are {KEYS_MAX}")
    return tuple(names)


def read_signer(path: Path) -> Signer:
    """What signs with the private keys in a file or directory.

    Raises:
        KeyFilesError: They cannot be used.
    """
    return Signer(read_private_keys(path))


def read_verifier(path: Path) -> Verifier:
    """What verifies with the public keys in a file.

    Raises:
        KeyFilesError: They cannot be used.
    """
    return Verifier(parsed(path, parse_public_keys))


def make_private_key(directory: Path) -> Path:
    """Make a private key in a directory, which is created if it does not exist.

    Returns:
        The file, which is on disk: `{key id}.pem`, for the owner alone.

    Raises:
        KeyFilesError: It cannot be written.
    """
    key = PrivateKey(Ed25519PrivateKey.generate())
    file = directory / f"{key.public.id}{SUFFIX}"
    # Its name does not end in .pem: no reader finds half a key.
    scratch = directory / f".{file.name}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch.unlink(missing_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(key.to_pem())
            opened.flush()
            os.fsync(opened.fileno())
        scratch.rename(file)
        _sync_directory(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise KeyFilesError(f"{file}: {error.strerror}") from error
    return file


def parsed(file: Path, parse: Callable[[bytes], Iterable[T]], *, private: bool = False) -> Iterable[T]:
    """The keys in one file.

    Args:
        file: The file.
        parse: `parse_private_keys` or `parse_public_keys`.
        private: Whether to refuse a file that others can read, or its group can change, and not
            only one that others can change.

    Raises:
        KeyFilesError: It cannot be used.
    """
    try:
        with file.open("rb") as opened:
            _guard(file, opened.fileno(), private=private)
            return parse(opened.read(KEY_FILE_BYTES_MAX + 1))
    except OSError as error:
        raise KeyFilesError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise KeyFilesError(f"{file}: {error}") from error


def _guard(file: Path, descriptor: int, *, private: bool) -> None:
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if not private:
        if mode & stat.S_IWOTH:
            raise ValueError(f"it has mode {mode:04o}, so others can change whom to trust; chmod o-w {file}")
        return
    if mode & _OTHERS:
        raise ValueError(
            f"it has mode {mode:04o}, so others can read or change it; chmod 600 {file}, or mount it with mode 0440"
        )
    if mode & stat.S_IWGRP:
        # A volume with a Kubernetes fsGroup lets its group write every file, at each mount.
        try:
            os.fchmod(descriptor, mode & ~stat.S_IWGRP)
        except OSError:
            raise ValueError(f"it has mode {mode:04o}, so its group can change it; chmod 600 {file}") from None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_Identity = tuple[tuple[str, int, int, int, int], ...]


def _identity(path: Path) -> _Identity:
    try:
        files = private_key_files(path)
    except KeyFilesError:
        return ()
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((file.name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _content_part(identity: _Identity) -> object:
    """An identity without the times at which modes changed."""
    return tuple(file[:-1] for file in identity)
