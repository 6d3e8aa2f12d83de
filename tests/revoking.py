"""Revocations of API keys at the ends of the push protocol, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.batch import BatchRefused, Gap, read_batch
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, Addition, RevocationsPosition, RevokedKeys
from dataplane.sync.revocations.keeper import RelayedRevocations
from dataplane.sync.revocations.stream import RevocationStream


class IngressInMemory:
    """The relay and one ingress replica, which may lag. It outlives agents."""

    def __init__(self) -> None:
        self.revoked: dict[str, None] = {}
        self.position = NOTHING_REVOKED
        self.keeps_up = asyncio.Event()
        self.keeps_up.set()

    async def found(self) -> RelayedRevocations:
        return RelayedRevocations(key_uids=tuple(self.revoked), position=self.position)

    async def put(self, addition: Addition) -> None:
        self.revoked.update(dict.fromkeys(addition.key_uids))
        self.position = addition.position

    async def until_applied(self, newest: Callable[[], RevocationsPosition]) -> RevocationsPosition:
        await self.keeps_up.wait()
        return newest()


class RevocationsInMemory:
    """A data plane that applies revocations at once, and keeps them as long as it lives."""

    def __init__(self) -> None:
        self.held = RevokedKeys()
        self.stream = RevocationStream(self._take)

    async def _take(self, revocations: pb.Revocations) -> bool:
        try:
            self.held.take(read_batch(revocations.payload))
        except Gap:
            return False
        except BatchRefused:
            return True
        self.stream.kept(self.held.position)
        self.stream.applied(self.held.position, "")
        return True


def batch(*key_uids: str, after: int = 0, store_uid: str = "store", last: int | None = None) -> pb.Revocations:
    """A batch as a control plane sends it. With another `last`, it is invalid."""
    payload = pb.RevocationBatch(
        store_uid=store_uid,
        after_sequence=after,
        last_sequence=after + len(key_uids) if last is None else last,
        key_uids=key_uids,
    )
    return pb.Revocations(payload=payload.SerializeToString())
