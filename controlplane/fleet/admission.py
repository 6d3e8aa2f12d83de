"""Which data planes may connect, and the number of each new stream."""

from __future__ import annotations

import asyncio
import functools

from controlplane.errors import Reason, ResourceExhausted
from controlplane.fleet.data_plane import Session
from controlplane.fleet.database import FleetDatabase
from controlplane.fleet.own_database import RecordStore
from controlplane.fleet.state import FleetState


class Admission:
    """Admits streams of data planes."""

    def __init__(self, state: FleetState, records: RecordStore, database: FleetDatabase) -> None:
        """
        Args:
            state: What is known of the data planes.
            records: Where records of earlier connections are kept.
            database: Numbers streams.
        """
        self._state = state
        self._records = records
        self._database = database
        self._claims: set[asyncio.Task[Session]] = set()
        """Under way; asyncio itself keeps no reference to a task."""

    async def admit(self, data_plane_id: str) -> Session:
        """Load the record of a data plane, and number its new stream.

        Returns:
            The session, for `FleetState.attach`.

        Raises:
            ResourceExhausted: there are too many data planes.
            Unavailable: the database failed.
        """
        # Another control plane may have sent it a newer snapshot than this process knows.
        await self._database.catch_up()
        if self._state.get(data_plane_id) is None:
            record = await self._records.get_data_plane(data_plane_id)
            is_known = self._state.remember(record, make_room=True) if record is not None else not self._state.is_full
            if not is_known:
                count = len(self._state.ids)
                raise ResourceExhausted(
                    Reason.TOO_MANY_DATA_PLANES, f"{count} data planes have connected, and no more are let in"
                )
        return await self._claim(data_plane_id)

    async def _claim(self, data_plane_id: str) -> Session:
        """Number the new stream. What was claimed for a stream that has ended is given up."""
        claiming = asyncio.create_task(self._database.claim(data_plane_id))
        self._claims.add(claiming)
        claiming.add_done_callback(self._claims.discard)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # The database may have numbered the stream, or is about to.
            claiming.add_done_callback(functools.partial(self._give_up, data_plane_id))
            raise

    def _give_up(self, data_plane_id: str, claimed: asyncio.Task[Session]) -> None:
        if not claimed.cancelled() and claimed.exception() is None:
            self._state.abandon(data_plane_id, claimed.result())
