"""What this process knows of the fleet's rollout: which snapshot each data plane may have now.

On a shared database, another control plane may have set a policy or moved the rollout. So a new
snapshot is given out only after the record was read that is at least as new: a policy holds for all
that is committed after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from broadsheet.v1 import waves_pb2 as pb
from controlplane.catalog.domain import Head
from controlplane.errors import Unavailable
from controlplane.fleet.state import FleetState
from controlplane.fleet.waves.health import Seen, seen_of
from controlplane.fleet.waves.policy import Policy, cuts_of, policy_of, wave_of
from controlplane.fleet.waves.rollout import Rollout, from_bytes
from controlplane.fleet.waves.states import State
from controlplane.store.fleet.waves import NOTHING, WavesRecord

REFRESH_PAUSE_S = 0.01
"""Between two reads of a shared database at least, however many commits there are."""

RETRY_S = 0.5
"""Wait after the database failed."""

_log = structlog.get_logger("controlplane.fleet.waves")


class WavesSource(Protocol):
    """Where the record is read."""

    async def get(self) -> WavesRecord:
        """The record as it is now.

        Raises:
            Unavailable: the database failed.
        """

    def subscribe(self, subscriber: Callable[[WavesRecord], None]) -> None:
        """Call `subscriber` with each change that this process commits."""


class Waves:
    """The rollout as this process knows it. Used from one event loop."""

    def __init__(
        self,
        state: FleetState,
        source: WavesSource | None = None,
        *,
        is_shared: bool = False,
        changed: Callable[[], None],
    ) -> None:
        """
        Args:
            state: What is known of the data planes.
            source: Where the record is; None: there are no waves.
            is_shared: Whether other control planes change the record.
            changed: Called when a data plane may have another snapshot than before. Must not block
                or raise.
        """
        self._state = state
        self._source = source
        self._is_shared = is_shared and source is not None
        self._changed = changed
        self._listeners: list[Callable[[], None]] = []
        self._newest = state.head
        """The newest snapshot that the record has been read for."""
        self._record = NOTHING
        self._policy: Policy | None = None
        self._rollout: Rollout | None = None
        self._is_loaded = False
        self._stale = asyncio.Event()
        self._reading = asyncio.Lock()
        self._reads_begun = 0
        if source is not None:
            source.subscribe(self._learn_and_tell)

    # -- what is known -----------------------------------------------------------------------------

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a data plane may have another snapshot. It must not block."""
        self._listeners.append(listener)

    def announce(self, head: Head) -> None:
        """There is a newer snapshot."""
        if self._is_shared:
            self._stale.set()
            return
        self._newest = head
        self._tell()

    async def refresh(self) -> None:
        """Learn what the database has: what was committed before this call is known after it.

        Where no other control plane changes it, only the first call reads.

        Raises:
            Unavailable: the database failed.
        """
        if self._source is None or (self._is_loaded and not self._is_shared):
            return
        begun = self._reads_begun
        async with self._reading:
            if self._reads_begun > begun:
                # A read that began after this call has ended.
                return
            self._reads_begun += 1
            newest = self._state.head
            before = (self._newest, self._record.version)
            self._learn(await self._source.get())
            self._is_loaded = True
            if newest.position.revision > self._newest.position.revision:
                self._newest = newest
            if (self._newest, self._record.version) != before:
                self._tell()

    async def follow(self) -> None:
        """Read the record whenever there is a new snapshot. Ends by being cancelled."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self.refresh()
            except Unavailable:
                _log.warning("waves_not_read", retry_s=RETRY_S)
                self._stale.set()
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(REFRESH_PAUSE_S)

    def _learn_and_tell(self, record: WavesRecord) -> None:
        self._learn(record)
        self._tell()

    def _learn(self, record: WavesRecord) -> None:
        if record.version <= self._record.version:
            return
        self._record = record
        self._policy = policy_of(pb.FleetPolicy.FromString(record.policy))
        store_uid = self._state.head.position.store_uid
        self._rollout = from_bytes(record.rollout, store_uid=store_uid) if record.rollout else None

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
        self._changed()

    # -- questions ---------------------------------------------------------------------------------

    @property
    def newest(self) -> Head:
        """The newest snapshot, as of the last read of the record."""
        return self._newest

    @property
    def record(self) -> WavesRecord:
        """The record that is known."""
        return self._record

    @property
    def policy(self) -> Policy | None:
        """The policy for the next rollout; None: there are no waves."""
        return self._policy

    @property
    def rollout(self) -> Rollout | None:
        """The rollout under way, or what the last one has left; None: there was none."""
        return self._rollout

    @property
    def floor(self) -> Head:
        """The snapshot that every data plane may have."""
        held = self._holding
        return held.stable if held is not None else self._newest

    @property
    def oldest_in_use(self) -> int | None:
        """The oldest catalog revision that a data plane may still have to be sent; None: only the
        newest."""
        held = self._holding
        return held.stable.position.revision if held is not None else None

    def head_for(self, data_plane_id: str) -> Head:
        """The newest snapshot that a data plane may have."""
        held = self._holding
        if held is None:
            return self._newest
        return held.target if held.target is not None and data_plane_id in held.given else held.stable

    def held(self, data_plane_id: str) -> str:
        """Why a data plane may not have the newest snapshot; empty: it may."""
        rollout = self._holding
        if rollout is None or self.head_for(data_plane_id).position.revision >= self._newest.position.revision:
            return ""
        if rollout.target is None:
            return "the rollout of the newest snapshot is about to begin"
        wave = f"wave {rollout.wave} of {len(rollout.policy.waves)}"
        if rollout.state is State.HALTED:
            return f"held by {wave}, which is HALTED: {rollout.reason}: {rollout.message}"
        if data_plane_id in rollout.given:
            target = rollout.target.position.revision
            return f"held until the rollout of revision {target} ends, whose {wave} is {rollout.state.value}"
        return f"held by {wave}, which is {rollout.state.value}"

    def seen(self) -> Sequence[Seen]:
        """What is known of each data plane, by id."""
        state = self._state
        return [
            seen_of(data_plane_id, known)
            for data_plane_id in state.ids
            if (known := state.get(data_plane_id)) is not None
        ]

    def wave_numbers(self) -> Callable[[str, Mapping[str, str]], int]:
        """Tells the wave of a data plane by its id and labels; 0: there are no waves."""
        rollout, policy = self._rollout, self._policy
        if rollout is not None and rollout.target is not None:
            waves, cuts = rollout.policy.waves, rollout.cuts
        elif policy is not None:
            voters = [(seen.data_plane_id, seen.labels) for seen in self.seen() if seen.votes]
            waves, cuts = policy.waves, cuts_of(policy, voters)
        else:
            return lambda data_plane_id, labels: 0
        return lambda data_plane_id, labels: wave_of(data_plane_id, labels, waves, cuts)

    def by_state(self) -> Mapping[str, int]:
        """1 for the state of the rollout, and 0 for the others."""
        state = self._rollout.state if self._rollout is not None else State.IDLE
        return {each.value: int(each is state) for each in State}

    @property
    def wave(self) -> int:
        """The wave that has begun last; 0: no rollout is under way."""
        return self._rollout.wave if self._rollout is not None else 0

    @property
    def held_count(self) -> int:
        """Data planes that are known and may not have the newest snapshot."""
        if self._holding is None:
            return 0
        newest = self._newest.position.revision
        return sum(self.head_for(known_id).position.revision < newest for known_id in self._state.ids)

    @property
    def _holding(self) -> Rollout | None:
        """The rollout, if data planes may be held by it."""
        rollout = self._rollout
        if rollout is None or (rollout.state is State.IDLE and self._policy is None):
            return None
        return rollout
