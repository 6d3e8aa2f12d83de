"""The fleet, put together from its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from controlplane.catalog.domain import Head
from controlplane.fleet.admission import Admission
from controlplane.fleet.changed import Changed
from controlplane.fleet.database import FleetDatabase
from controlplane.fleet.lag import Lags
from controlplane.fleet.own_database import OwnDatabase, RecordStore
from controlplane.fleet.reported_statuses import ReportedStatuses
from controlplane.fleet.shared_database import SharedDatabase, Sharing
from controlplane.fleet.state import FleetLimits, FleetState
from controlplane.fleet.waiting.waiters import Waiters
from controlplane.fleet.waves.waves import Waves, WavesSource
from controlplane.fleet.writing import FleetWriter, WritingSettings

SHARED_WRITE_PAUSE_S = 0.05
"""Between two writes to a shared database, which wakes the other control planes each time."""

OWN_WRITE_PAUSE_S = 0.2
"""Between two writes to a database of its own. A fleet reports each change within that time. Each
write waits for the disk, and changes of the catalog wait meanwhile."""

REPORTS_PER_OWN_WRITE = 500
"""Data planes whose reports are a single transaction: about 5 ms."""

REPORTS_PER_SHARED_WRITE = 50
"""Data planes whose reports are a single transaction on a shared database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The parts of the fleet. `writer.run`, `database.run` and `waves.follow` must be running."""

    state: FleetState
    """What is known of the data planes."""
    lags: Lags
    """How far they are behind the newest snapshot."""
    statuses: ReportedStatuses
    """What they have reported about a resource."""
    waiters: Waiters
    """Callers that wait for a revision."""
    waves: Waves
    """Which snapshot each data plane may have."""
    admission: Admission
    """Which data planes may connect."""
    database: FleetDatabase
    """Where reports are kept, and what other control planes know."""
    writer: FleetWriter
    """Writes `state` to `database`."""
    changed: Changed
    """Notified when something here changes."""


def fleet_of(
    records: RecordStore,
    *,
    head: Head,
    waves: WavesSource | None = None,
    sharing: Sharing | None = None,
    limits: FleetLimits | None = None,
    write_retry_s: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    own_write_pause_s: float = OWN_WRITE_PAUSE_S,
) -> Fleet:
    """A fleet that has yet to run.

    Args:
        records: Where records of data planes are kept.
        head: The newest snapshot at start.
        waves: Where the policy and the rollout are; None: there are no waves.
        sharing: How to share the database with other control planes; None: there are no others.
        limits: Bounds of the state.
        write_retry_s: Wait after a write that failed. Seconds.
        clock: Seconds of a clock that does not go back.
        own_write_pause_s: Between two writes to a database that is not shared. Seconds.
    """
    changed = Changed()
    lags = Lags(head, clock=clock)
    state = FleetState(head=head, shares_statuses=sharing is not None, limits=limits, on_change=changed.notify)
    changed.listen(lambda data_plane_id: lags.follow(state.head) if data_plane_id is None else None)
    database: FleetDatabase
    if sharing is None:
        database = OwnDatabase(records)
        writing = WritingSettings(
            pause_s=own_write_pause_s, retry_s=write_retry_s, reports_per_write=REPORTS_PER_OWN_WRITE
        )
    else:
        database = SharedDatabase(state, sharing)
        writing = WritingSettings(
            pause_s=SHARED_WRITE_PAUSE_S, retry_s=write_retry_s, reports_per_write=REPORTS_PER_SHARED_WRITE
        )
    known_waves = Waves(state, waves, is_shared=sharing is not None, changed=lambda: changed.notify(None))
    return Fleet(
        state=state,
        lags=lags,
        waves=known_waves,
        statuses=ReportedStatuses(state),
        waiters=Waiters(state, changed, known_waves),
        admission=Admission(state, records, database),
        database=database,
        writer=FleetWriter(state, changed, database, writing),
        changed=changed,
    )
