"""The agent's part of a data plane without Ray: `python -m tests.push_faults.data_plane`.

The stream, the checks, the disk and their order are the real ones (`SnapshotKeeper`). To put a
snapshot into service is to write its position to stdout, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path

from dataplane.logs import configure_logging
from dataplane.settings import Settings
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.keeper import SnapshotKeeper
from tests.push_faults.points import Point, arm
from tests.raw import POLICY
from tests.revoking import IngressInMemory


class Service:
    """Where snapshots are put into service."""

    async def activate(self, snapshot: Snapshot) -> None:
        position = snapshot.position
        line = {"revision": position.revision, "digest": position.digest.hex(), "store_uid": position.store_uid}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


POINTS = {
    "a change has arrived": Point(SnapshotKeeper, "on_change"),
    "a change is checked, not on disk": Point(SnapshotDirectory, "save"),
    "a change is on disk, not in service": Point(SnapshotDirectory, "save", after=True),
    "a change is in service, not acknowledged": Point(Service, "activate", after=True),
    "a change is acknowledged": Point(SnapshotKeeper, "on_change", after=True),
}


async def run(settings: Settings) -> None:
    keeper = SnapshotKeeper(
        settings,
        instance_uid=uuid.uuid4().hex,
        policy=POLICY,
        activate=Service().activate,
        ingress=IngressInMemory(),
    )
    await keeper.load()
    await keeper.run()


if __name__ == "__main__":
    arm(POINTS)
    configure_logging()
    data_dir, controlplane, token, data_plane_id = sys.argv[1:]
    asyncio.run(
        run(
            Settings(
                data_dir=Path(data_dir),
                controlplane=controlplane,
                controlplane_token=token,
                data_plane_id=data_plane_id,
            )
        )
    )
