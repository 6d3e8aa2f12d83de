"""What the command line shows of snapshots."""

from __future__ import annotations

import io

from rich.console import Console

from broadsheet.cli.view.snapshots import snapshots_table
from broadsheet.types import SnapshotSummary
from protocol.snapshot_limits import SNAPSHOT_BYTES_MAX


def shown(*snapshots: SnapshotSummary) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(snapshots_table(snapshots))
    return console.export_text()


def test_the_size_of_a_snapshot_is_shown_with_its_share_of_the_limit() -> None:
    assert "1.1 GB (50.0%)" in shown(SnapshotSummary(size_bytes=SNAPSHOT_BYTES_MAX // 2))
    assert "0 B (0.0%)" in shown(SnapshotSummary(size_bytes=0))


def test_a_size_that_was_not_counted_is_unknown() -> None:
    assert "?" in shown(SnapshotSummary())
    assert "?" not in shown(SnapshotSummary(size_bytes=1))
