"""The credential of a data plane on its disk. Blocking: call it in a thread.

A credential is kept before its enrolment token is redeemed, and is put into its place afterwards.
So at every moment the one that the control plane knows is on disk.
"""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dataplane.sync.durable_files import remove_file, write_file
from protocol.enrollment import CREDENTIAL_PREFIX, SECRET_CHARACTERS_MAX
from protocol.transport.source_files import read_limited

_FILE_BYTES_MAX = 4096


class KeptCredentialError(ValueError):
    """A kept credential cannot be read or written. The message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCredential:
    """A credential, and how it came."""

    data_plane: str
    """The id that it is for."""
    token_hash: str
    """`protocol.enrollment.token_hash` of the token that is or was exchanged for it, in hex."""
    credential: str = field(repr=False)


class CredentialFiles:
    """The files in the data directory, which only this user can read."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "credential"
        self.current_path = self._directory / "current.json"
        self._pending_path = self._directory / "pending.json"

    def current(self) -> KeptCredential | None:
        """The credential that was got; None: none was.

        Raises:
            KeptCredentialError: It cannot be used.
        """
        return _read(self.current_path)

    def pending(self) -> KeptCredential | None:
        """The credential whose token may not have been redeemed; None: there is none.

        Raises:
            KeptCredentialError: It cannot be used.
        """
        return _read(self._pending_path)

    def write_pending(self, credential: KeptCredential) -> None:
        """Keep a credential before its token is redeemed.

        Raises:
            KeptCredentialError: It cannot be written.
        """
        content = json.dumps(asdict(credential)).encode()
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_file(self._pending_path, lambda file: file.write(content))
        except OSError as error:
            raise KeptCredentialError(f"{self._pending_path}: cannot be written: {error.strerror}") from error

    def accept_pending(self, credential: KeptCredential) -> None:
        """The token of the pending credential was redeemed: from now on it is the current one.

        Raises:
            KeptCredentialError: It cannot be written. It stays pending, and to redeem it again
                succeeds.
        """
        content = json.dumps(asdict(credential)).encode()
        try:
            write_file(self.current_path, lambda file: file.write(content))
            remove_file(self._pending_path)
        except OSError as error:
            raise KeptCredentialError(f"{self.current_path}: cannot be written: {error.strerror}") from error


def _read(path: Path) -> KeptCredential | None:
    try:
        if path.stat().st_mode & stat.S_IRWXO:
            raise KeptCredentialError(f"{path}: others can read or change it; chmod 600, or enrol again")
        fields = json.loads(read_limited(path, _FILE_BYTES_MAX))
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in fields.values()):
            raise ValueError("not text")
        kept = KeptCredential(**fields)
        if not kept.credential.startswith(CREDENTIAL_PREFIX) or len(kept.credential) > SECRET_CHARACTERS_MAX:
            raise ValueError("no credential")
    except FileNotFoundError:
        return None
    except KeptCredentialError:
        raise
    except OSError as error:
        raise KeptCredentialError(f"{path}: cannot be read: {error.strerror}") from error
    except (AttributeError, RecursionError, TypeError, ValueError):
        # Without the cause: it could quote the content.
        raise KeptCredentialError(
            f"{path}: it is no credential of a data plane; delete it, and enrol the data plane again"
        ) from None
    return kept
