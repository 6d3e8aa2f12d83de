"""A control plane that ends itself at a named point.

python -m tests.push_faults.control_plane [FLAGS of the control plane]
"""

from __future__ import annotations

import sys

from controlplane.__main__ import main
from controlplane.push.cutting import Cutter
from controlplane.push.fan_out import FanOut
from controlplane.store.groups import GroupCommit
from tests.push_faults.points import Point, arm

POINTS = {
    "a change waits for its commit": Point(GroupCommit, "_carry_out"),
    "a change is written, not committed": Point(GroupCommit, "_carry_out", after=True),
    "a change is durable, not answered": Point(GroupCommit, "_on_commit"),
    "a change is answered, not pushed": Point(FanOut, "publish"),
    "a part of a snapshot is sent": Point(Cutter, "next_chunk"),
}

if __name__ == "__main__":
    arm(POINTS)
    sys.exit(main())
