"""`broadsheet controlplane backup FILE` and `restore FILE`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from controlplane import errors, settings
from controlplane.store.backup import backup as store_backup
from protocol.arguments import not_utf8
from protocol.transport.home import absolute

COMMANDS = ("backup", "restore")

USAGE = "usage: broadsheet controlplane {command} FILE [--data-dir DIR | --database-url URL]"


def run(command: str, arguments: Sequence[str]) -> None:
    """Run a command on the database that the control plane's flags and environment name.

    Args:
        command: One of COMMANDS.
        arguments: The file, then flags of the control plane.

    Raises:
        errors.SetupError: It is not possible; says why.
    """
    if not arguments or arguments[0].startswith("-"):
        raise errors.SetupError(USAGE.format(command=command))
    if (fault := not_utf8(arguments, {}, settings.ENV_PREFIX)) is not None:
        raise errors.SetupError(f"{fault} is not UTF-8")
    try:
        path = absolute(Path(arguments[0]))
    except ValueError as error:
        raise errors.SetupError(f"FILE: {error}") from error
    url = settings.load(arguments[1:]).store_url
    if command == "backup":
        header = asyncio.run(store_backup.backup(url, path))
        sys.stdout.write(f"{path}: catalog revision {header.catalog_revision}\n")
        return
    header = asyncio.run(store_backup.restore(url, path))
    sys.stdout.write(
        f"Restored catalog revision {header.catalog_revision} of {header.create_time}, under a new store uid. "
        "Data planes that have served the old store take it once they are started with --allow-new-store.\n"
    )
