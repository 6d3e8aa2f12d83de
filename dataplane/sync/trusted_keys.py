"""The public keys that this data plane takes snapshots by, and what they have refused.

The signature is over store uid, revision, root digest and number of entries. `accept` holds the
entries against the root digest, so the two checks together vouch for every byte.

A refusal for a signature is not final: the fault may be a key that is missing here, or at the
control plane. So such a snapshot is asked for again when the trusted keys change, and now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from dataplane.errors import DataPlaneError
from dataplane.snapshot.policy import any_head
from dataplane.snapshot.position_check import describe
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.sync.durable_files import write_file
from dataplane.sync.rejections import REJECTED_MAX
from protocol.signing.heads import SIGNED_HEAD_BYTES_MAX, parse_head, verify_head
from protocol.signing.signatures import SignatureError, Verifier
from protocol.transport.key_files import KeyFiles, KeyFilesError, read_verifier

RELOAD_INTERVAL_S = 1.0
"""How often the file is looked at."""

RETRY_S = 60.0
"""After about this time, what was refused is asked for again: the control plane may sign with
another key by now."""

_log = structlog.get_logger("dataplane.sync.trusted_keys")


class TrustedKeysUnusable(DataPlaneError):
    """The file of trusted keys cannot be used at start. Nothing is taken without it."""

    reason = "TRUSTED_KEYS_UNUSABLE"


class TrustedKeysChanged(Exception):
    """By the keys of now, what is on disk may be served. The next agent looks."""


class TrustedKeys:
    """The trusted keys now.

    `refuse` may be called from any thread, everything else from the event loop.
    """

    def __init__(
        self,
        file: Path | None,
        renewed: Path,
        *,
        reload_interval_s: float = RELOAD_INTERVAL_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """Store the paths; nothing is read yet.

        Args:
            file: PEM file with public keys. None: signatures are not asked for.
            renewed: Where the newest signed head of the snapshot in service is kept. While keys
                rotate, a catalog that does not change gets new signatures all the same, and a later
                start without the control plane needs them.
            reload_interval_s: How often the file is looked at.
            retry_s: About when what was refused is asked for again.
        """
        self._keys = KeyFiles(file, read_verifier) if file is not None else None
        self._renewed_file = renewed
        self._renewed = b""
        self._reload_interval_s = reload_interval_s
        self._retry_s = retry_s
        self.verifier: Verifier | None = None
        """Verifies with the trusted keys. None: signatures are not asked for."""
        self.refused_at_start = False
        """What was on disk or in the relay was refused for its signature."""
        self._refused: deque[Position] = deque(maxlen=REJECTED_MAX)
        """The newest since it was last asked again. The stream remembers no more rejections."""

    def read(self) -> None:
        """Read the files. This comes before `refuse`.

        Raises:
            TrustedKeysUnusable: The trusted keys cannot be used.
        """
        with contextlib.suppress(OSError), self._renewed_file.open("rb") as opened:
            self._renewed = opened.read(SIGNED_HEAD_BYTES_MAX + 1)
        if self._keys is None:
            return
        try:
            self.verifier = self._keys.read()
        except KeyFilesError as error:
            raise TrustedKeysUnusable(str(error)) from error

    def refuse(self, position: Position, entry_count: int, signed_head: bytes) -> Rejection | None:
        """Why no trusted key vouches for this snapshot, as in `Policy.refuse_head`."""
        if self._keys is None:
            return any_head(position, entry_count, signed_head)
        verifier = self.verifier
        assert verifier is not None, "read comes first"
        try:
            verify_head(verifier, signed_head, position.to_proto(), entry_count)
        except SignatureError as error:
            if self._renewed and self._is_vouched_for_by_renewed(verifier, position, entry_count):
                return None
            return Rejection(reason=error.reason, message=f"{describe(position)}: {error.message}")
        return None

    def _is_vouched_for_by_renewed(self, verifier: Verifier, position: Position, entry_count: int) -> bool:
        try:
            verify_head(verifier, self._renewed, position.to_proto(), entry_count)
        except SignatureError:
            return False
        return True

    def rejected(self, position: Position) -> None:
        """Remember what the control plane was told is rejected for its signature."""
        self._refused.append(position)

    async def follow(
        self, ask_again: Callable[[Iterable[Position], int], None], *, serving: Callable[[], Snapshot | None]
    ) -> None:
        """Read the file again when it changes, and ask again for what was refused, for ever.

        Args:
            ask_again: Asks for these snapshots; gets the number of the question, from 1 on.
            serving: The snapshot in service, if there is one. It stays there whatever the keys.

        Raises:
            TrustedKeysChanged: None is, and one may be after a new start.
        """
        loop = asyncio.get_running_loop()
        number, due_s = 0, loop.time() + self._next_retry_s()
        while self._keys is not None:
            await asyncio.sleep(self._reload_interval_s)
            changed = await asyncio.to_thread(self._reload, self._keys)
            if changed:
                self._judge(serving())
            if not changed and loop.time() < due_s:
                continue
            number, due_s = number + 1, loop.time() + self._next_retry_s()
            refused = set(self._refused)
            self._refused.clear()
            if refused:
                _log.info("refused_snapshots_asked_for_again", revisions=sorted(item.revision for item in refused))
                ask_again(refused, number)

    def _judge(self, snapshot: Snapshot | None) -> None:
        """Say what other keys mean for the snapshot in service."""
        if snapshot is None:
            if self.refused_at_start:
                raise TrustedKeysChanged("nothing is in service, and what is on disk may be trusted now")
            return
        rejection = self.refuse(snapshot.position, len(snapshot.entries), snapshot.signed_head)
        if rejection is not None:
            # To end it would end all requests. The next snapshot has to be signed by a trusted key.
            _log.error("snapshot_in_service_not_trusted", reason=rejection.reason, error=rejection.message)

    async def keep_renewed(self, current: Callable[[], bytes]) -> None:
        """Keep the signed head of the snapshot in service when it gets other signatures, for ever.

        Args:
            current: The one that came last. Empty: none did.
        """
        while True:
            await asyncio.sleep(self._reload_interval_s)
            signed_head = current()
            if signed_head and signed_head != self._renewed and self._is_worth_keeping(signed_head):
                self._renewed = signed_head
                try:
                    await asyncio.to_thread(write_file, self._renewed_file, lambda file: file.write(self._renewed))
                except OSError as error:
                    _log.error("signed_head_not_kept", file=str(self._renewed_file), error=str(error))

    def _is_worth_keeping(self, signed_head: bytes) -> bool:
        """Whether it may replace the one that is kept: a trusted key has signed it."""
        try:
            _, head = parse_head(signed_head)
            if self.verifier is not None:
                verify_head(self.verifier, signed_head, head.position, head.entry_count)
        except SignatureError as error:
            _log.warning("signed_head_not_trusted", reason=error.reason, error=error.message)
            return False
        return True

    def _next_retry_s(self) -> float:
        # Data planes that refused at the same moment do not all ask again at the same moment.
        return self._retry_s * random.uniform(0.5, 1.5)  # noqa: S311

    def _reload(self, keys: KeyFiles[Verifier]) -> bool:
        try:
            changed = keys.changed()
        except KeyFilesError as error:
            # Those read before stay trusted: a file that is being replaced must not stop updates.
            _log.error("trusted_keys_not_reloaded", error=str(error))
            return False
        if changed is None:
            return False
        _log.info("trusted_keys_reloaded", key_ids=changed.key_ids)
        self.verifier = changed
        return True
