"""Moves the fleet's rollout: begins it, goes on with the next wave, or halts it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from controlplane import errors, principal
from controlplane.catalog.domain import Head
from controlplane.fleet.fleet import Fleet
from controlplane.fleet.waves.clock import WavesClock
from controlplane.fleet.waves.machine import Situation, Step, next_step
from controlplane.fleet.waves.rollout import to_bytes
from controlplane.fleet.waves.states import LOGGED, Event, State
from controlplane.store.fleet.waves import WavesRecord
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction

INTERVAL_S = 1.0
"""Between two looks when no data plane reports anything: for soaks and timeouts."""

PAUSE_S = 0.05
"""Between two looks at least. After a long look it is longer."""

STEPS_MAX = 50
"""Moves in one look. A rollout of 16 waves without a soak has 3 for each."""

RESOURCE = "fleetRollout"
"""The rollout's name in the audit log."""

_PAGE = 1000

_WAVES = principal.Principal(name="waves", role="", authentication="none")
"""The author of these moves in the audit log."""

_log = structlog.get_logger("controlplane.upkeep.waves")


class WavesUpkeep:
    """Makes the moves that are due.

    Each control plane on a database does so. A move is written only if the rollout has not changed
    since it was decided, so each is made once.
    """

    def __init__(self, store: Store, fleet: Fleet, *, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        """
        Args:
            store: Where the rollout is.
            fleet: What data planes have reported.
            now: The time (UTC, aware).
            clock: Seconds of a clock that does not go back.
        """
        self._store = store
        self._fleet = fleet
        self._now = now
        self._clock = clock
        self._since = WavesClock()
        self._something = asyncio.Event()
        """A data plane, the newest snapshot or the rollout has changed."""

    async def run(self, *, interval_s: float = INTERVAL_S, pause_s: float = PAUSE_S) -> None:
        """Make the moves that are due, until cancelled.

        Args:
            interval_s: Between two looks when nothing changes.
            pause_s: Between two looks at least.
        """
        self._fleet.changed.listen(lambda data_plane_id: self._something.set())
        is_complete = False
        with principal.acting_as(_WAVES):
            while True:
                began_s = self._clock()
                self._something.clear()
                try:
                    if not is_complete:
                        await self._remember_all()
                        is_complete = True
                    await self.advance()
                except errors.Unavailable as error:
                    _log.warning("fleet_rollout_not_advanced", error=str(error))
                # With ten thousand data planes a look takes long, and other work goes on.
                await asyncio.sleep(max(pause_s, 4 * (self._clock() - began_s)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await self._something.wait()

    async def advance(self) -> None:
        """Make the moves that are due now.

        Raises:
            errors.Unavailable: The database failed.
        """
        waves = self._fleet.waves
        await waves.refresh()
        for _ in range(STEPS_MAX):
            record = waves.record
            step = self._due()
            if step is None:
                return
            if not await self._write(record, step):
                # Another control plane or an operator was first.
                await waves.refresh()

    def _due(self) -> Step | None:
        waves, now_s = self._fleet.waves, self._clock()
        rollout, newest = waves.rollout, waves.newest
        if rollout is None or (waves.policy is None and rollout.state is State.IDLE):
            return None
        self._since.sample(waves.seen, now_s)
        is_quiet = rollout.state is State.IDLE and newest.position.revision <= rollout.stable.position.revision
        if is_quiet or (rollout.state is State.HALTED and not _is_rolled_back(waves.record, rollout.target)):
            self._since.observe(rollout, (), now_s)
            return None
        seen = waves.seen()
        self._since.observe(rollout, seen, now_s)
        situation = Situation(
            newest=newest,
            policy_message=waves.record.policy,
            policy=waves.policy,
            rollback_revision=waves.record.rollback_revision,
            seen=seen,
            now=self._now(),
            now_s=now_s,
            clock=self._since,
        )
        return next_step(rollout, situation)

    async def _write(self, decided_from: WavesRecord, step: Step) -> bool:
        """Carry out a move, unless the rollout has changed since it was decided."""

        async def work(transaction: WriteTransaction) -> bool:
            current = await transaction.waves.get()
            if current.version != decided_from.version:
                return False
            changed = replace(current, rollout=to_bytes(step.rollout))
            await transaction.waves.put(changed, is_logged=step.event in LOGGED)
            return True

        is_made = await self._store.write(work, method=step.event.value, resource=RESOURCE)
        if is_made:
            _log_move(step)
        return is_made

    async def _remember_all(self) -> None:
        """Load the data planes that have not connected since the start: they are not well."""
        after_id = ""
        while page := await self._store.data_planes.list(after_id=after_id, limit=_PAGE):
            for record in page:
                self._fleet.state.remember(record)
            after_id = page[-1].id


def _is_rolled_back(record: WavesRecord, target: Head | None) -> bool:
    return target is not None and record.rollback_revision > target.position.revision


def _log_move(step: Step) -> None:
    rollout = step.rollout
    log = _log.warning if step.event is Event.HALT else _log.info
    log(
        "fleet_rollout_moved",
        move=step.event.name,
        state=rollout.state.value,
        wave=rollout.wave,
        stable=rollout.stable.position.revision,
        target=rollout.target.position.revision if rollout.target is not None else None,
        data_planes=len(rollout.given),
        reason=rollout.reason,
        message=rollout.message,
    )
