"""Ends one data plane on a Ray cluster that others use too. Blocks."""

from __future__ import annotations

import time

import ray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dataplane.agent.deployments import (
    AGENT_APPLICATION,
    INGRESS_APPLICATION,
    SYSTEM_APPLICATIONS,
    application_states,
    delete_application,
)
from dataplane.launch import records
from dataplane.launch.errors import LaunchRefused
from dataplane.launch.observation import not_here
from dataplane.relay.actor import find_relay

_POLL_S = 0.5


def stop(data_plane_id: str, *, timeout_s: float, screen: Console) -> None:
    """Delete its applications, its relay and its record. It can be run again after a failure.

    The agent goes first, because it would deploy what is deleted. The ingress goes next: it drains
    while the engines still answer. The record goes last.

    Args:
        data_plane_id: Its id.
        timeout_s: How long all of it may take.
        screen: Where progress is shown.

    Raises:
        LaunchRefused: It is not on this cluster, or something was left after `timeout_s`.
    """
    if records.read(data_plane_id) is None:
        raise LaunchRefused(not_here(data_plane_id))
    deadline = time.monotonic() + timeout_s
    with _progress(screen) as progress:
        _end(data_plane_id, {AGENT_APPLICATION}, "stopping the agent", deadline, progress)
        _end(data_plane_id, {INGRESS_APPLICATION}, "draining the ingress", deadline, progress)
        models = application_states(data_plane_id).keys() - SYSTEM_APPLICATIONS
        _end(data_plane_id, models, "stopping applications of models", deadline, progress)
    relay = find_relay(data_plane_id)
    if relay is not None:
        ray.kill(relay, no_restart=True)
    records.remove(data_plane_id)


def _end(data_plane_id: str, names: set[str], what: str, deadline: float, progress: Progress) -> None:
    """Delete applications, and wait until they are gone."""
    present = application_states(data_plane_id).keys() & names
    if not present:
        return
    task = progress.add_task(what, total=len(present))
    if progress.disable:
        progress.console.print(f"{what}: {len(present)}", highlight=False)
    for name in sorted(present):
        delete_application(name, data_plane_id)
    left = present
    while left := application_states(data_plane_id).keys() & left:
        progress.update(task, completed=len(present) - len(left))
        if time.monotonic() >= deadline:
            raise LaunchRefused(f"timeout_s: {what} takes longer; still there: {', '.join(sorted(left))}")
        time.sleep(_POLL_S)
    progress.update(task, completed=len(present))


def _progress(screen: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
