"""Batches of revocations, read from the store and signed once for all streams."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.revocations import BatchRequest
from protocol.revocations import BATCH_UIDS_MAX
from protocol.signing.signatures import REVOCATION_BATCH

CACHED_BATCHES_MAX = 16
"""Batches that are kept, those used last. The largest have 350 kB."""


class RevocationSource(Protocol):
    """The part of the store that revocations are read from."""

    async def after(self, sequence: int, *, limit: int) -> Sequence[str]:
        """Uids of up to `limit` revoked keys after this sequence, in the order of sequences."""


class Signer(Protocol):
    """Signs what data planes are to trust. Immutable: other keys are another signer."""

    def sign(self, context: str, payload: bytes) -> Sequence[snapshot_pb2.Signature]:
        """A signature over `payload` by each key that signs now."""


class Batch(NamedTuple):
    """Revocations for the wire."""

    response: pb.SyncResponse
    last_sequence: int
    signer: Signer | None
    """Who has signed it."""


class RevocationBatches:
    """The batches that streams ask for. Messages that it returns are to read only."""

    def __init__(self, source: RevocationSource, *, store_uid: str, signer: Callable[[], Signer | None]) -> None:
        """
        Args:
            source: Where the revocations are.
            store_uid: The store that they belong to.
            signer: Returns who signs them now. None: they are not signed.
        """
        self._source = source
        self._store_uid = store_uid
        self._signer = signer
        self._batches: OrderedDict[int, Batch] = OrderedDict()
        """By the sequence that they follow, those used last at the end."""
        self._reading = asyncio.Lock()

    async def get(self, request: BatchRequest) -> Batch:
        """The revocations that a stream asks for, at most BATCH_UIDS_MAX of them.

        Raises:
            LookupError: the store does not have them.
            Unavailable: the database failed.
        """
        found = self._cached(request)
        if found is None:
            async with self._reading:
                found = self._cached(request) or await self._read(request)
        return found

    def _cached(self, request: BatchRequest) -> Batch | None:
        found = self._batches.get(request.after_sequence)
        wanted = min(request.newest_sequence, request.after_sequence + BATCH_UIDS_MAX)
        # Data planes may not trust the keys of before any more.
        if found is None or found.last_sequence < wanted or found.signer is not self._signer():
            return None
        self._batches.move_to_end(request.after_sequence)
        return found

    async def _read(self, request: BatchRequest) -> Batch:
        uids = await self._source.after(request.after_sequence, limit=BATCH_UIDS_MAX)
        if not uids:
            raise LookupError(f"there is no revocation after {request.after_sequence}")
        last = request.after_sequence + len(uids)
        payload = pb.RevocationBatch(
            store_uid=self._store_uid,
            after_sequence=request.after_sequence,
            last_sequence=last,
            key_uids=uids,
        ).SerializeToString(deterministic=True)
        signer = self._signer()
        signatures = signer.sign(REVOCATION_BATCH, payload) if signer is not None else ()
        response = pb.SyncResponse(revocations=pb.Revocations(payload=payload, signatures=signatures))
        batch = self._batches[request.after_sequence] = Batch(response, last, signer)
        self._batches.move_to_end(request.after_sequence)
        if len(self._batches) > CACHED_BATCHES_MAX:
            self._batches.popitem(last=False)
        return batch
