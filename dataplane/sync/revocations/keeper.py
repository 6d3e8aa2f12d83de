"""Takes revocations of API keys: checks them, has the ingress apply them, keeps them on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.batch import BatchRefused, Gap, read_batch
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, Addition, RevocationsPosition, RevokedKeys
from dataplane.sync.revocations.file import RevocationsFile
from dataplane.sync.revocations.stream import RevocationStream
from protocol.signing.signatures import REVOCATION_BATCH, SignatureError

RETRY_S = 30.0
"""How often what could not be kept on disk, or not be trusted, is tried again. Seconds."""

_log = structlog.get_logger("dataplane.sync.revocations")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedRevocations:
    """What an earlier agent has given to the ingress."""

    key_uids: Sequence[str] = ()
    position: RevocationsPosition = NOTHING_REVOKED


class Ingress(Protocol):
    """The ingress replicas, as far as revocations go."""

    async def found(self) -> RelayedRevocations:
        """What they have been given by an earlier agent."""

    async def put(self, addition: Addition) -> None:
        """Give them more."""

    async def until_applied(self, newest: Callable[[], RevocationsPosition]) -> RevocationsPosition:
        """Wait until every replica that lives refuses the keys that were put. Returns up to where.

        Args:
            newest: What was put last.
        """


class Verifier(Protocol):
    """Knows which control planes are trusted."""

    def verify(self, context: str, payload: bytes, signatures: Iterable[snapshot_pb2.Signature]) -> str:
        """The id of a trusted key that has signed.

        Raises:
            SignatureError: None has.
        """


class RevocationKeeper:
    """The revoked keys of a data plane. Call `load`, then `run`.

    What it holds only grows. An addition is first applied, then kept, and then reported.
    """

    def __init__(self, file: RevocationsFile, ingress: Ingress, *, verifier: Callable[[], Verifier | None]) -> None:
        """
        Args:
            file: Where they are kept.
            ingress: Where they are applied.
            verifier: Returns what refuses batches that no trusted control plane has signed. None:
                all are taken.
        """
        self._file = file
        self._ingress = ingress
        self._verifier = verifier
        self._held = RevokedKeys()
        self.stream = RevocationStream(self.take)
        """For the Sync client."""
        self._kept = True
        """Whether the disk has all that is held."""
        self._ask_again = False
        """Whether a batch could not be trusted."""
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()
        self.warning = ""
        """What operators must know; empty: nothing."""

    @property
    def position(self) -> RevocationsPosition:
        """How far revocations are known."""
        return self._held.position

    async def load(self) -> None:
        """Unite what is on disk with what an earlier agent has given to the ingress.

        Afterwards the ingress has all of it, before any snapshot is put into service.
        """
        try:
            stored = await asyncio.to_thread(self._file.read)
        except OSError as error:
            _log.error("revocations_unreadable", error=str(error))
            stored = None
        if stored is not None:
            if stored.damage:
                _log.error("revocations_damaged", error=stored.damage, kept=len(stored.key_uids))
            self._unite(stored.key_uids, stored.position)
            self._kept = not stored.damage
        relayed = await self._ingress.found()
        if self._unite(relayed.key_uids, relayed.position):
            self._kept = False
        await self._ingress.put(Addition(key_uids=tuple(self._held), position=self.position))
        if not self._kept:
            await self._write_all()
        self.stream.kept(self.position)
        self._changed.set()

    def _unite(self, key_uids: Sequence[str], position: RevocationsPosition) -> bool:
        try:
            return self._held.unite(key_uids, position) is not None
        except BatchRefused as error:
            _log.error("revocations_refused", error=str(error))
            return False

    async def take(self, revocations: pb.Revocations) -> bool:
        """Take what the control plane has sent.

        Returns:
            False: it does not follow what is known, so the stream has to begin again.
        """
        try:
            verifier = self._verifier()
            if verifier is not None:
                verifier.verify(REVOCATION_BATCH, revocations.payload, revocations.signatures)
            batch = read_batch(revocations.payload)
            addition = self._held.take(batch)
        except Gap as error:
            _log.warning("revocations_missing", error=str(error))
            return False
        except (BatchRefused, SignatureError) as error:
            # Snapshots go on: they have the revocations, too. Keys may be trusted later.
            _log.error("revocations_refused", error=str(error))
            self._ask_again = isinstance(error, SignatureError)
            self._changed.set()
            return True
        if addition is not None:
            _log.info("keys_revoked", keys=len(addition.key_uids), sequence=addition.position.sequence)
            # The ingress first: it costs nothing if the revocation is not kept, and is reported
            # only when it is.
            await self._ingress.put(addition)
            await self._keep(addition)
            self.stream.kept(addition.position)
        self._changed.set()
        return True

    async def run(self) -> None:
        """Report what the ingress applies. Runs until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(RETRY_S if self._ask_again or not self._kept else None):
                    await self._changed.wait()
            except TimeoutError:
                await self._try_again()
            self._changed.clear()
            applied = await self._ingress.until_applied(lambda: self.position)
            self.stream.applied(applied, self.warning)

    async def _try_again(self) -> None:
        if not self._kept:
            await self._write_all()
        if self._ask_again:
            self._ask_again = False
            self.stream.restart()

    async def _keep(self, addition: Addition) -> None:
        async with self._writing:
            if self._kept and self._file.has_place_for(addition, len(self._held)):
                await self._on_disk(lambda: self._file.append(addition))
                return
        await self._write_all()

    async def _write_all(self) -> None:
        async with self._writing:
            held, position = tuple(self._held), self.position
            await self._on_disk(lambda: self._file.write(held, position))

    async def _on_disk(self, write: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(write)
        except OSError as error:
            _log.error("revocations_not_on_disk", sequence=self.position.sequence, error=str(error))
            self._kept = False
            self.warning = f"revoked keys are refused from memory, and not kept on disk: {error}"
        else:
            self._kept, self.warning = True, ""
