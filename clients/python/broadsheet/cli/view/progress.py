"""Live progress: a spinner, and a model or adapter that is starting."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from broadsheet.cli.session import Session
from broadsheet.cli.view.states import state_text
from broadsheet.client import Client
from broadsheet.progress import ServingProgress


def say(screen: Console, text: str, style: str = "") -> None:
    """Show plain text: brackets in it are not markup."""
    screen.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def spinner(screen: Console, text: str) -> Progress:
    """A moving line with the time so far. Nothing is shown where there is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    progress = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
    progress.add_task(text, total=None)
    return progress


def wait_and_show(
    session: Session, client: Client, resource: str, revision: int, timeout_s: float, *, require_ready: bool = False
) -> None:
    """Wait until every connected data plane serves a resource, and show how far each is.

    It is shown on stderr: on a terminal as a live table, elsewhere as a line for each change.

    Raises:
        ServingFailed: A data plane cannot serve it.
        ServingTimeout: It took too long.
    """
    started_s = time.monotonic()
    if session.stderr.is_terminal:
        with Live(console=session.stderr, transient=True, refresh_per_second=8) as live:
            progress = client.wait_until_serving(
                resource,
                revision=revision,
                require_ready=require_ready,
                timeout_s=timeout_s,
                on_progress=lambda progress: live.update(_table(progress, time.monotonic() - started_s)),
            )
    else:
        last = ""

        def show_change(progress: ServingProgress) -> None:
            nonlocal last
            if not progress.done and progress.describe() != last:
                last = progress.describe()
                session.say(f"waiting: {last}")

        progress = client.wait_until_serving(
            resource, revision=revision, require_ready=require_ready, timeout_s=timeout_s, on_progress=show_change
        )
    elapsed_s = time.monotonic() - started_s
    planes = ", ".join(
        f"{state_text(plane.state).plain} on {plane.data_plane.removeprefix('dataPlanes/')}"
        for plane in progress.data_planes
        if plane.connected
    )
    session.say(f"{progress.resource}: {planes} after {elapsed_s:.1f} s")


def _table(progress: ServingProgress, elapsed_s: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(Spinner("dots"), f"{progress.resource} revision {progress.revision_number}", f"{elapsed_s:.0f} s")
    for plane in progress.data_planes:
        has = plane.snapshot_revision >= progress.catalog_revision
        table.add_row(
            "",
            plane.data_plane,
            state_text(plane.state) if has else f"catalog revision {plane.snapshot_revision}",
            Text(plane.reason if plane.connected else "not connected, not waited for"),
        )
    if not any(plane.connected for plane in progress.data_planes):
        table.add_row("", progress.describe(), "")
    return table
