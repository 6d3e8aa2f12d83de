"""Faults put into the code under test, each of which an invariant must catch.

Each is a function that replaces one named function; `FAULTS` has the first seed that catches it.
`python -m tests.simulation.planted` finds the seeds again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.fleet.waves import health, machine
from controlplane.push.chunks import ChunkCache
from controlplane.push.fan_out import FanOut
from controlplane.push.stream import Stream
from controlplane.push.subscription.machine import Subscription
from dataplane.snapshot import integrity
from dataplane.snapshot.changes import accept_change
from dataplane.sync import keeper
from dataplane.sync.keeper import SnapshotKeeper
from dataplane.sync.stored.change_log import ChangeLog
from dataplane.sync.subscriber import Subscriber
from dataplane.sync.trusted_keys import TrustedKeys
from tests.simulation.plan import plan_of
from tests.simulation.runner import run
from tests.simulation.virtual.disk import Disk

Plant = Callable[[pytest.MonkeyPatch], None]

SEEDS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A planted fault."""

    plant: Plant
    seed: int
    """The first that catches it."""
    invariant: str
    """Which is violated."""

    @property
    def name(self) -> str:
        return self.plant.__name__

    def planted(self) -> AbstractContextManager[None]:
        """Put it in, for the length of a block."""
        return _planted(self.plant)


@contextmanager
def _planted(plant: Plant) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        yield


def apply_before_commit(patch: pytest.MonkeyPatch) -> None:
    """The data plane takes a snapshot for complete when its entries are, without its Commit."""
    receive = Subscriber._receive_chunk

    def receive_chunk(self: Subscriber, chunk: pb.Chunk) -> Any:
        event = receive(self, chunk)
        if event is not None or self._assembler is None:
            return event
        return self._receive_commit(pb.Commit(to=self._assembler.position.to_proto()))

    patch.setattr(Subscriber, "_receive_chunk", receive_chunk)


def ack_at_send(patch: pytest.MonkeyPatch) -> None:
    """The control plane takes a snapshot for active when it has sent its Commit."""
    go_on = Subscription._continue_sending

    def continue_sending(self: Subscription, now_s: float) -> Any:
        output = go_on(self, now_s)
        if isinstance(output, pb.SyncResponse):
            serving = self.head.position
            self.progress = replace(self.progress, serving=serving, target=serving, phase=pb.PHASE_ACTIVE)
        return output

    patch.setattr(Subscription, "_continue_sending", continue_sending)


def answer_a_nack_with_the_same_snapshot(patch: pytest.MonkeyPatch) -> None:
    """The control plane forgets what a data plane has rejected."""
    patch.setattr(Subscription, "rejects", lambda self, position: False)


def forget_the_watch_on_a_lost_connection(patch: pytest.MonkeyPatch) -> None:
    """The fan-out does not watch the stream of a data plane that it has known before."""
    attach = FanOut.attach

    def attach_new_ones(self: FanOut, stream: Stream, session: Any) -> None:
        known = self._fleet.state.view(stream.data_plane_id) is not None
        attach(self, stream, session)
        if known:
            del self._streams[stream]

    patch.setattr(FanOut, "attach", attach_new_ones)


def skip_the_root(patch: pytest.MonkeyPatch) -> None:
    """The data plane does not compare the root digest of what has arrived."""
    patch.setattr(accept_change, "refuse_root", lambda position, digest: None)
    patch.setattr(integrity, "refuse_root", lambda position, digest: None)


def swap_two_chunks(patch: pytest.MonkeyPatch) -> None:
    """The control plane sends the second chunk before the first."""
    get = ChunkCache.get

    async def swapped(self: ChunkCache, request: Any) -> Any:
        if request.index < 2:
            other = await get(self, replace(request, index=1 - request.index))
            if other is not None:
                return other
        return await get(self, request)

    patch.setattr(ChunkCache, "get", swapped)


def change_of_the_wrong_base(patch: pytest.MonkeyPatch) -> None:
    """The agent applies a change to the snapshot before the one that it begins at."""
    apply = accept_change.accept_change
    older: dict[bytes, Any] = {}

    def accept_older(position: Any, change: Any, held: Any, policy: Any, **named: Any) -> Any:
        before = older.get(held.position.digest, held)
        older.clear()
        older[position.digest] = held
        return apply(position, replace(change, base=before.position), before, policy, **named)

    patch.setattr(keeper, "accept_change", accept_older)


def pointer_before_its_file(patch: pytest.MonkeyPatch) -> None:
    """A file is not flushed before its folder is: a pointer may outlive what it points to."""
    patch.setattr(Disk, "flush", lambda self, inode: None)


def compaction_loses_the_newest_record(patch: pytest.MonkeyPatch) -> None:
    """What was appended to the log while its new base was written is not taken over."""

    def compacted(self: ChangeLog, base_bytes: int) -> ChangeLog:
        assert self._compaction is not None, "it is being compacted"
        self._compaction.since.clear()
        return real(self, base_bytes)

    real = ChangeLog.compacted
    patch.setattr(ChangeLog, "compacted", compacted)


def signature_checked_after_the_swap(patch: pytest.MonkeyPatch) -> None:
    """The data plane verifies a snapshot once it is in service."""
    take, refuse = SnapshotKeeper._take, TrustedKeys.refuse

    async def take_first(self: SnapshotKeeper, accepted: Any, change: Any = None) -> Any:
        outcome = await take(self, accepted, change)
        rejection = refuse(self._trusted, accepted.position, len(accepted.entries), accepted.signed_head)
        return rejection or outcome

    patch.setattr(SnapshotKeeper, "_take", take_first)
    patch.setattr(TrustedKeys, "refuse", lambda self, position, entry_count, signed_head: None)


def a_silent_data_plane_counts_as_well(patch: pytest.MonkeyPatch) -> None:
    """A wave takes a data plane for well that says nothing."""
    is_well = health.is_well
    patch.setattr(machine, "is_well", lambda seen, target: not seen.connected or is_well(seen, target))


FAULTS = (
    Fault(plant=apply_before_commit, seed=8, invariant="nothing is applied before Commit"),
    Fault(plant=ack_at_send, seed=0, invariant="ACTIVE is active at every ingress replica"),
    Fault(plant=answer_a_nack_with_the_same_snapshot, seed=4, invariant="a rejected snapshot is not sent again"),
    Fault(plant=forget_the_watch_on_a_lost_connection, seed=4, invariant="everyone converges"),
    Fault(plant=skip_the_root, seed=50, invariant="active is a committed snapshot"),
    Fault(plant=swap_two_chunks, seed=0, invariant="a good snapshot is not rejected"),
    Fault(plant=change_of_the_wrong_base, seed=1, invariant="a good change comes out"),
    Fault(plant=signature_checked_after_the_swap, seed=27, invariant="a signature is verified before activation"),
    Fault(plant=pointer_before_its_file, seed=4, invariant="positions never regress"),
    Fault(plant=a_silent_data_plane_counts_as_well, seed=6, invariant="a wave begins when the one before is well"),
    Fault(plant=compaction_loses_the_newest_record, seed=406, invariant="positions never regress"),
)


def first_caught(fault: Fault, seeds: Iterable[int]) -> int | None:
    """The first of these seeds at which a fault violates its invariant; None: at none."""
    for seed in seeds:
        violation = run(plan_of(seed), plant=fault.planted).violation
        if violation is not None and violation.invariant == fault.invariant:
            return seed
    return None


def main() -> None:
    """Print the first seed that catches each fault."""
    for fault in FAULTS:
        seed = first_caught(fault, range(SEEDS_MAX))
        found = f"seed {seed}" if seed is not None else f"none of {SEEDS_MAX} seeds"
        sys.stdout.write(f"{fault.name}: {found}, recorded is {fault.seed}: {fault.invariant}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
