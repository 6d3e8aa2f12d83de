"""Gets the credential of a data plane: kept from before, or in exchange for an enrolment token."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from dataplane.sync.channel import Metadata
from dataplane.sync.enrollment.kept import CredentialFiles, KeptCredential
from protocol.enrollment import SECRET_BYTES, credential_hash, credential_of, token_hash
from protocol.transport import local_tokens

_log = structlog.get_logger("dataplane.sync.enrollment")

Redeem = Callable[[str, bytes], Awaitable[None]]
"""Exchanges a token for the credential with this hash. Raises EnrollmentError."""


class EnrollmentError(ValueError):
    """There is no credential. The message says why, and what to do."""


class EnrollmentRefused(EnrollmentError):
    """The control plane has refused the enrolment token for good."""


class EnrolledCredential:
    """The credential that a data plane has by enrolment.

    Of a new token, a credential is made, kept, and then registered. With the token of before, or
    without one, the kept credential is used.
    """

    def __init__(
        self,
        files: CredentialFiles,
        *,
        data_plane_id: str,
        token_file: Path | None,
        redeem: Redeem,
        new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(SECRET_BYTES),
    ) -> None:
        """
        Args:
            files: Where it is kept.
            data_plane_id: Whose it is.
            token_file: File with an enrolment token; None: there is none.
            redeem: Asks the control plane.
            new_secret: Makes 43 base64url characters that nobody can guess.
        """
        self._files = files
        self._data_plane_id = data_plane_id
        self._token_file = token_file
        self._redeem = redeem
        self._new_secret = new_secret
        self._refused = ""
        """The hash of a token that was refused while there was a credential."""

    async def get(self) -> str | None:
        """The credential; None: the data plane is not enrolled, and is not to be.

        Raises:
            EnrollmentError: It cannot be had now.
            KeptCredentialError: A file in the data directory cannot be used.
        """
        current = await asyncio.to_thread(self._files.current)
        if current is not None and current.data_plane != self._data_plane_id:
            raise EnrollmentError(
                f"{self._files.current_path} is the credential of {current.data_plane}, and this is "
                f"{self._data_plane_id}; give each data plane a data directory of its own"
            )
        token = await asyncio.to_thread(self._token, is_needed=current is None)
        shown = token_hash(token).hex() if token is not None else ""
        if token is None or (current is not None and shown in (current.token_hash, self._refused)):
            return current.credential if current is not None else None
        try:
            return await self._enroll(token, shown)
        except EnrollmentRefused as error:
            if current is None:
                raise
            self._refused = shown
            _log.error("credential_not_renewed", error=str(error), hint="the one of before is still used")
            return current.credential

    async def _enroll(self, token: str, shown: str) -> str:
        pending = await asyncio.to_thread(self._files.pending)
        if pending is None or (pending.data_plane, pending.token_hash) != (self._data_plane_id, shown):
            credential = credential_of(self._new_secret())
            pending = KeptCredential(data_plane=self._data_plane_id, token_hash=shown, credential=credential)
            # First the disk: one that is registered and then lost would need another token.
            await asyncio.to_thread(self._files.write_pending, pending)
        await self._redeem(token, credential_hash(pending.credential))
        await asyncio.to_thread(self._files.accept_pending, pending)
        _log.info("data_plane_enrolled", data_plane=self._data_plane_id, file=str(self._files.current_path))
        return pending.credential

    def _token(self, *, is_needed: bool) -> str | None:
        """The enrolment token; None: there is none, and none is needed."""
        if self._token_file is None:
            return None
        try:
            return local_tokens.read(self._token_file)
        except (OSError, ValueError) as error:
            if not is_needed:
                # It has done its work, and may be gone.
                return None
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise EnrollmentError(f"enrollment token file {self._token_file}: {reason}") from None


def bearer(credential: str) -> Metadata:
    """The metadata of calls with this credential."""
    return (("authorization", f"Bearer {credential}"),)
