"""`broadsheet dataplane status` and `stop`: one data plane on a Ray cluster, from any process."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from dataplane.launch.errors import LaunchRefused
from dataplane.launch.joining import join, leave
from dataplane.settings import CLI_CONFIG, parsed
from protocol.names import RESOURCE_ID_PATTERN

COMMANDS = ("status", "stop")


class _CommandSettings(BaseSettings):
    model_config = CLI_CONFIG

    ray_address: str = Field(
        default="auto",
        pattern=r"^(auto|[^\s/]+:\d{1,5})$",
        description="Ray cluster that the data plane was launched on (`auto`, or HOST:PORT).",
    )
    data_plane_id: str = Field(default="local", description="Id of the data plane.", pattern=f"^{RESOURCE_ID_PATTERN}$")


class StatusSettings(_CommandSettings):
    """Shows a data plane on a Ray cluster: agent, ingress replicas, position and applications."""

    model_config = SettingsConfigDict(cli_prog_name="broadsheet dataplane status", cli_shortcuts={"output": "o"})

    output: Literal["table", "json"] = Field(default="table", description="How it is printed.")


class StopSettings(_CommandSettings):
    """Ends a data plane on a Ray cluster: requests are drained, then its applications are deleted.

    Other data planes of the cluster, and other applications of Ray Serve, are left alone.
    """

    model_config = SettingsConfigDict(cli_prog_name="broadsheet dataplane stop")

    timeout_s: float = Field(
        default=900.0,
        ge=1,
        le=86400,
        description="How long to wait, in s. What has been ordered by then is still carried out by Ray Serve.",
    )


def run(command: str, arguments: Sequence[str]) -> int:
    """Run a command. Returns the exit status: 0, or 1 if it could not be done.

    Args:
        command: One of COMMANDS.
        arguments: Flags.

    Raises:
        SettingsError: A flag or environment variable is not allowed.
        SystemExit: After `--help` (0), or for an unknown flag (2).
    """
    kinds: Mapping[str, type[_CommandSettings]] = {"status": StatusSettings, "stop": StopSettings}
    settings = parsed(kinds[command], arguments)
    try:
        join(settings.ray_address)
        if isinstance(settings, StatusSettings):
            _show(settings)
        if isinstance(settings, StopSettings):
            _stop(settings)
    except LaunchRefused as error:
        print(f"broadsheet dataplane {command}: {error}", file=sys.stderr)  # noqa: T201  # typed at a terminal
        return 1
    finally:
        leave()
    return 0


def _show(settings: StatusSettings) -> None:
    from dataplane.launch import observation
    from dataplane.launch.status_view import as_json, tables

    seen = observation.observe(settings.data_plane_id)
    if settings.output == "json":
        print(as_json(seen))  # noqa: T201  # the result
        return
    screen = Console()
    for table in tables(seen):
        screen.print(table)


def _stop(settings: StopSettings) -> None:
    from dataplane.launch import stopping

    screen = Console(stderr=True)
    stopping.stop(settings.data_plane_id, timeout_s=settings.timeout_s, screen=screen)
    screen.print(f"data plane {settings.data_plane_id} is stopped", highlight=False)
