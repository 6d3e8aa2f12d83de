"""Tokens of a control plane without configured authentication, generated at its first start.

They are kept in the data directory. While the control plane listens on this machine, a copy is
where clients look for it (`protocol.transport.local_tokens`). Only the owner can read them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from controlplane import errors
from controlplane.access.permissions import Role
from controlplane.access.tokens_file import FixedTokens, sha256
from controlplane.principal import Principal
from protocol.transport import local_tokens

ROLES: Mapping[str, Role] = {local_tokens.ADMIN: Role.ADMIN, local_tokens.DATA_PLANE: Role.DATA_PLANE}
"""The generated tokens, and the role of each."""

_log = structlog.get_logger("controlplane.tokens")


class GeneratedTokens:
    """The generated tokens of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        """
        Args:
            data_dir: Of the control plane. Has the files `admin_token` and `data-plane_token`,
                which are generated if they do not exist.

        Raises:
            errors.SetupError: they cannot be read or written.
        """
        try:
            self._tokens = {kind: _kept(data_dir / f"{kind}_token") for kind in ROLES}
        except (OSError, ValueError) as error:
            raise errors.SetupError(f"the generated tokens cannot be used: {error}") from error

    def source(self, *, is_local: bool) -> FixedTokens:
        """The tokens as a source of principals.

        Args:
            is_local: Whether only this machine can reach the control plane.
        """
        return FixedTokens(
            {
                sha256(token): Principal(
                    name=f"local-{kind}", role=ROLES[kind], authentication="token", is_local=is_local
                )
                for kind, token in self._tokens.items()
            }
        )

    @contextmanager
    def left_for(self, address: str) -> Iterator[None]:
        """Put the tokens where clients on this machine look for them, within the block.

        Args:
            address: Where the control plane listens. If other machines can reach it, no token is
                written.
        """
        place = local_tokens.directory(address)
        if place is None:
            yield
            return
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            for kind, token in self._tokens.items():
                _write(place / kind, token)
        except OSError as error:
            _log.warning("local_tokens_not_written", directory=str(place), error=str(error), hint="use --token-file")
        try:
            yield
        finally:
            self._remove(place)

    def _remove(self, place: Path) -> None:
        # Another control plane may use the address by now: remove only the tokens of this one.
        for kind, token in self._tokens.items():
            with contextlib.suppress(OSError, ValueError):
                if local_tokens.read(place / kind) == token:
                    (place / kind).unlink()
        with contextlib.suppress(OSError):
            place.rmdir()


def _kept(file: Path) -> str:
    """The token in `file`, which is generated if it does not exist.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it has no token, or others can read or change it.
    """
    try:
        token = local_tokens.read(file)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        token = secrets.token_urlsafe(32)
        _write(file, token)
        return token
    mode = file.stat().st_mode
    if mode & stat.S_IRWXO:
        raise ValueError(f"others can read or change {file}; delete it to generate another token")
    if mode & stat.S_IRWXG:
        # A volume with a Kubernetes fsGroup gives its group access to every file, at each mount.
        with contextlib.suppress(OSError):
            file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return token


def _write(file: Path, token: str) -> None:
    """Replace `file` atomically: a reader finds a whole token."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(token)
    scratch.rename(file)
