"""WaitForRevision: callers that wait until data planes have dealt with a revision."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from controlplane.catalog.domain import DataPlaneRecord, Head
from controlplane.errors import InvalidArgument, Reason, ResourceExhausted
from controlplane.fleet.changed import Changed
from controlplane.fleet.state import FleetState
from controlplane.fleet.waiting.outcomes import DataPlaneOutcome, Outcome, missing, outcome_of, pending_from
from controlplane.fleet.waiting.watches import Watch, Watches

WAITERS_MAX = 1000
"""Calls at a time."""

WATCHED_MAX = 500_000
"""Data planes of all waits together, those for the same revision and data planes counted once. An
entry takes about 150 bytes."""

Outcomes = tuple[DataPlaneOutcome, ...]
Stored = Mapping[str, DataPlaneRecord]


class Holding(Protocol):
    """Which snapshot each data plane may have."""

    def head_for(self, data_plane_id: str) -> Head:
        """The newest that it may have."""

    def held(self, data_plane_id: str) -> str:
        """Why it may not have a newer one; empty: it may have the newest."""


class _Wait:
    """What any number of callers wait for: they share the watch and the answer."""

    def __init__(self, watch: Watch, stored: Stored) -> None:
        self.watch = watch
        self.stored = stored
        self.callers = 0
        self.over = asyncio.Event()
        self.answer: tuple[int, Outcomes] | None = None
        """The last answer, and the number of changes before it."""


class Waiters:
    """The callers that wait for a revision."""

    def __init__(self, state: FleetState, changed: Changed, holding: Holding) -> None:
        """
        Args:
            state: What is known of the data planes.
            changed: Notified when `state` or `holding` changes.
            holding: Which snapshot each data plane may have.
        """
        self._state = state
        self._holding = holding
        self._watches = Watches(self._pending_from)
        self._waits: dict[tuple[int, tuple[str, ...]], _Wait] = {}
        """By revision and data planes."""
        self._changed_ids: set[str] = set()
        """Watched data planes that have changed since the last `_settle`."""
        self._changes = 0
        self._answering = asyncio.Lock()
        self._count = 0
        self._closed = False
        changed.listen(self._note)

    async def wait_for_revision(
        self,
        revision: int,
        data_plane_ids: Iterable[str],
        timeout_s: float,
        stored: Stored = MappingProxyType({}),
    ) -> Outcomes:
        """Wait until no data plane is PENDING with `revision`, or the time is over.

        Args:
            revision: Of the catalog.
            data_plane_ids: Ids of the data planes to wait for.
            timeout_s: How long to wait. Seconds.
            stored: Records of those that the database has and the memory has not, by id.

        Returns:
            The outcome at each data plane, by id. Callers that wait for the same may get the same
            object.

        Raises:
            InvalidArgument: there is no such revision yet.
            ResourceExhausted: too many callers wait already.
        """
        newest = self._state.head.position.revision
        if revision > newest:
            raise InvalidArgument.of_field("revision", f"got {revision}: the newest catalog revision is {newest}")
        if self._count >= WAITERS_MAX:
            raise ResourceExhausted(Reason.TOO_MANY_WAITERS, f"{self._count} calls wait already")
        wait = self._join(revision, tuple(sorted(set(data_plane_ids))), stored)
        self._count += 1
        try:
            async with asyncio.timeout(timeout_s):
                await wait.over.wait()
        except TimeoutError:
            pass
        finally:
            self._count -= 1
            self._leave(wait)
        return await self._answer(wait)

    def close(self) -> None:
        """Answer all callers now, with what is known. Later calls do not wait."""
        self._closed = True
        for wait in tuple(self._waits.values()):
            self._end(wait)

    def _join(self, revision: int, ids: tuple[str, ...], stored: Stored) -> _Wait:
        self._settle()
        wait = self._waits.get((revision, ids))
        if wait is None:
            watched = self._watches.size + len(ids)
            if watched > WATCHED_MAX:
                raise ResourceExhausted(
                    Reason.TOO_MANY_WAITERS,
                    f"calls would wait for {watched} data planes in all, and at most for {WATCHED_MAX}; wait for fewer",
                )
            wait = self._waits[revision, ids] = _Wait(Watch(revision, ids), stored)
            self._watches.add(wait.watch)
            if self._closed or not wait.watch.pending:
                self._end(wait)
        wait.callers += 1
        return wait

    def _leave(self, wait: _Wait) -> None:
        wait.callers -= 1
        if not wait.callers and not wait.over.is_set():
            self._end(wait)

    def _end(self, wait: _Wait) -> None:
        """Wake the callers. Whoever comes later waits anew."""
        del self._waits[wait.watch.revision, wait.watch.ids]
        self._watches.remove(wait.watch)
        wait.over.set()

    def _pending_from(self, data_plane_id: str) -> float:
        allowed = self._holding.head_for(data_plane_id).position
        return pending_from(self._state.get(data_plane_id), self._state.head.position, allowed)

    def _note(self, data_plane_id: str | None) -> None:
        self._changes += 1
        if not self._waits:
            return
        if not self._changed_ids:
            # Once for all changes that come together; and a new head is known to the streams then.
            asyncio.get_running_loop().call_soon(self._settle)
        self._changed_ids.update(self._watches.ids if data_plane_id is None else (data_plane_id,))

    def _settle(self) -> None:
        """End the waits that the last changes have decided."""
        changed_ids, self._changed_ids = self._changed_ids, set()
        touched = {watch for data_plane_id in changed_ids for watch in self._watches.update(data_plane_id)}
        for watch in touched:
            if not watch.pending:
                self._end(self._waits[watch.revision, watch.ids])

    async def _answer(self, wait: _Wait) -> Outcomes:
        # One after the other, and other tasks run in between: an answer may be long.
        async with self._answering:
            if wait.answer is None or wait.answer[0] != self._changes:
                outcomes = tuple(self._outcome(wait, data_plane_id) for data_plane_id in wait.watch.ids)
                wait.answer = self._changes, outcomes
            outcomes = wait.answer[1]
            await asyncio.sleep(0)
        return outcomes

    def _outcome(self, wait: _Wait, data_plane_id: str) -> DataPlaneOutcome:
        known = self._state.get(data_plane_id)
        if known is None:
            return missing(data_plane_id, wait.stored.get(data_plane_id))
        allowed = self._holding.head_for(data_plane_id).position
        outcome = outcome_of(data_plane_id, known, wait.watch.revision, self._state.head.position, allowed)
        if outcome.outcome is Outcome.PENDING and allowed.revision < wait.watch.revision:
            outcome = replace(outcome, message=self._holding.held(data_plane_id))
        return outcome
