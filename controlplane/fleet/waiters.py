"""WaitForRevision: callers that wait until data planes have dealt with a revision."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from controlplane.errors import InvalidArgument, Reason, ResourceExhausted
from controlplane.fleet.changed import Changed
from controlplane.fleet.outcomes import DataPlaneOutcome, Outcome, outcome_of
from controlplane.fleet.state import FleetState

WAITERS_MAX = 1000
"""Calls at a time. Each looks at every data plane that it waits for, whenever the fleet changes."""


class Waiters:
    """The callers that wait for a revision."""

    def __init__(self, state: FleetState, changed: Changed) -> None:
        """
        Args:
            state: What is known of the data planes.
            changed: Notified when `state` changes.
        """
        self._state = state
        self._changed = changed
        self._count = 0
        self._closed = False

    async def wait_for_revision(
        self, revision: int, data_plane_ids: Iterable[str], timeout_s: float
    ) -> tuple[DataPlaneOutcome, ...]:
        """Wait until no data plane is PENDING with `revision`, or the time is over.

        Args:
            revision: Of the catalog.
            data_plane_ids: Ids of the data planes to wait for.
            timeout_s: How long to wait. Seconds.

        Returns:
            The outcome at each data plane, by id.

        Raises:
            InvalidArgument: there is no such revision yet.
            ResourceExhausted: too many callers wait already.
        """
        newest = self._state.head.position.revision
        if revision > newest:
            raise InvalidArgument.of_field("revision", f"got {revision}: the newest catalog revision is {newest}")
        if self._count >= WAITERS_MAX:
            raise ResourceExhausted(Reason.TOO_MANY_WAITERS, f"{self._count} calls wait already")
        ids = sorted(data_plane_ids)
        self._count += 1
        try:
            async with asyncio.timeout(timeout_s):
                while not self._closed and any(
                    self._outcome(data_plane_id, revision).outcome is Outcome.PENDING for data_plane_id in ids
                ):
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._count -= 1
        return tuple(self._outcome(data_plane_id, revision) for data_plane_id in ids)

    def close(self) -> None:
        """Answer all callers now, with what is known. Later calls do not wait."""
        self._closed = True
        self._changed.notify()

    def _outcome(self, data_plane_id: str, revision: int) -> DataPlaneOutcome:
        return outcome_of(data_plane_id, self._state.get(data_plane_id), revision, self._state.head.position)
