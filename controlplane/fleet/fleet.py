"""The fleet, put together from its parts."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.catalog.domain import Head
from controlplane.fleet.admission import Admission
from controlplane.fleet.changed import Changed
from controlplane.fleet.database import FleetDatabase
from controlplane.fleet.own_database import OwnDatabase, RecordStore
from controlplane.fleet.reported_statuses import ReportedStatuses
from controlplane.fleet.shared_database import SharedDatabase, Sharing
from controlplane.fleet.state import FleetLimits, FleetState
from controlplane.fleet.waiting.waiters import Waiters
from controlplane.fleet.waves.waves import Waves, WavesSource
from controlplane.fleet.writing import FleetWriter, WritingSettings

SHARED_WRITE_PAUSE_S = 0.05
"""Between two writes to a shared database, which wakes the other control planes each time."""

REPORTS_PER_OWN_WRITE = 50
"""Each write waits for the disk, and changes of the catalog wait meanwhile."""

REPORTS_PER_SHARED_WRITE = 50
"""Data planes whose reports are a single transaction on a shared database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The parts of the fleet. `writer.run`, `database.run` and `waves.follow` must be running."""

    state: FleetState
    """What is known of the data planes."""
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
) -> Fleet:
    """A fleet that has yet to run.

    Args:
        records: Where records of data planes are kept.
        head: The newest snapshot at start.
        waves: Where the policy and the rollout are; None: there are no waves.
        sharing: How to share the database with other control planes; None: there are no others.
        limits: Bounds of the state.
        write_retry_s: Wait after a write that failed. Seconds.
    """
    changed = Changed()
    state = FleetState(head=head, shares_statuses=sharing is not None, limits=limits, on_change=changed.notify)
    database: FleetDatabase
    if sharing is None:
        database = OwnDatabase(records)
        writing = WritingSettings(retry_s=write_retry_s, reports_per_write=REPORTS_PER_OWN_WRITE)
    else:
        database = SharedDatabase(state, sharing)
        writing = WritingSettings(
            pause_s=SHARED_WRITE_PAUSE_S, retry_s=write_retry_s, reports_per_write=REPORTS_PER_SHARED_WRITE
        )
    known_waves = Waves(state, waves, is_shared=sharing is not None, changed=lambda: changed.notify(None))
    return Fleet(
        state=state,
        waves=known_waves,
        statuses=ReportedStatuses(state),
        waiters=Waiters(state, changed, known_waves),
        admission=Admission(state, records, database),
        database=database,
        writer=FleetWriter(state, changed, database, writing),
        changed=changed,
    )
