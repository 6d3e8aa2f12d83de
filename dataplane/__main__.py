"""`broadsheet dataplane`: runs the agent and the ingress on Ray Serve.

On a Ray that is started here, they end with this process. On a Ray cluster that is joined, they
outlive it: this process deploys them and follows their logs, or ends at once (`--detach`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

import structlog

from dataplane.launch import commands
from dataplane.launch.clusters import Cluster, JoinedCluster, OwnCluster
from dataplane.launch.environment import check_certificates
from dataplane.launch.errors import LaunchRefused
from dataplane.logs import configure_logging
from dataplane.settings import Settings, SettingsError, parse

_log = structlog.get_logger("dataplane")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the data plane until it is stopped, or a command about one.

    Args:
        argv: Flags, or a command and its flags; None: those of the process.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 after a failure, 2 for bad settings.
    """
    configure_logging()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in commands.COMMANDS:
            return commands.run(arguments[0], arguments[1:])
        settings = parse(arguments)
    except SettingsError as error:
        print(f"broadsheet dataplane: {error}", file=sys.stderr)  # noqa: T201  # settings are typed at a terminal
        return 2
    return asyncio.run(run(settings))


async def run(settings: Settings) -> int:
    """Launch the data plane, and follow it until SIGTERM or SIGINT. Returns the exit status."""
    stop = asyncio.Event()
    _on_signals(stop)
    cluster: Cluster = JoinedCluster(settings) if settings.ray_address else OwnCluster(settings)
    try:
        check_certificates(settings)
        await asyncio.to_thread(cluster.start)
        _on_signals(stop)  # again: Ray has replaced the handlers by its own, which print a stack trace
        _log.info("serving", http=settings.http_url, data_plane=settings.data_plane_id)
        if not settings.detach:
            await _follow(cluster, stop)
        return 0
    except LaunchRefused as error:
        _log.error("launch_refused", error=str(error))
        return 1
    except Exception as error:
        _log.error("dataplane_failed", error=str(error), exc_info=error)
        return 1
    finally:
        _log.info("stopping")
        await asyncio.to_thread(cluster.stop)
        _log.info("stopped")


async def _follow(cluster: Cluster, stop: asyncio.Event) -> None:
    watching = asyncio.create_task(cluster.watch())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        watching.result()
    watching.cancel()
    stopping.cancel()


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


if __name__ == "__main__":
    sys.exit(main())
