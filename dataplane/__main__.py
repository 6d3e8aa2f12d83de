"""`broadsheet dataplane`: runs the agent and the ingress on Ray Serve until it is stopped.

It joins a Ray cluster, or starts Ray on this machine.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from dataplane.logs import configure_logging
from dataplane.settings import Settings, SettingsError, parse
from protocol.transport.tls_files import TlsFiles, TlsFilesError

_OBJECT_STORE_BYTES = 512 * 1024 * 1024
"""Only snapshots go through Ray's object store. Its default would be a third of the memory."""
_WATCH_INTERVAL_S = 5.0
"""Time between two checks that Ray is alive."""
LOOPBACK_RAY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of everything that starts or joins a Ray on loopback.

Without it, Ray takes the loopback address for a mistake, uses that of the machine's network, and
listens on all of them."""
RAY_TOKEN_FILE = "ray_auth_token"  # noqa: S105  # the name of a file
"""File in the data directory with the token that admits a process to the Ray that was started here
(`RAY_AUTH_TOKEN_PATH`)."""

_log = structlog.get_logger("dataplane")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the data plane until it is stopped.

    Args:
        argv: Flags; None: those of the process.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 after a failure, 2 for bad settings.
    """
    configure_logging()
    try:
        settings = parse(list(sys.argv[1:] if argv is None else argv))
    except SettingsError as error:
        print(f"broadsheet dataplane: {error}", file=sys.stderr)  # noqa: T201  # settings are typed at a terminal
        return 2
    return asyncio.run(run(settings))


async def run(settings: Settings) -> int:
    """Start everything, wait for SIGTERM or SIGINT, stop everything. Returns the exit status."""
    stop = asyncio.Event()
    _on_signals(stop)
    if (fault := _tls_fault(settings)) is not None:
        _log.error("http_certificate_not_usable", error=fault)
        return 1
    if (busy := _port_in_use(settings)) is not None:
        _log.error("http_address_in_use", http=settings.http, error=busy)
        return 1
    cluster = _Cluster(settings)
    try:
        await asyncio.to_thread(cluster.start)
        _on_signals(stop)  # again: Ray has replaced the handlers by its own, which print a stack trace
        _log.info("serving", http=settings.http_url, data_plane=settings.data_plane_id)
        watching = asyncio.create_task(cluster.watch())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            watching.result()
        watching.cancel()
        return 0
    except Exception as error:
        _log.error("dataplane_failed", error=str(error), exc_info=error)
        return 1
    finally:
        _log.info("stopping")
        await asyncio.to_thread(cluster.stop)
        _log.info("stopped")


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


class _Cluster:
    """Ray, and the agent and the ingress on it. Its methods block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start(self) -> None:
        """Start or join Ray, then the agent and the ingress. Returns when the ingress listens."""
        _prepare_environment(self._settings)  # before the import, because Ray reads its environment then
        import ray
        from ray import serve

        started = time.monotonic()
        if self._settings.ray_address:
            ray.init(
                address=self._settings.ray_address,
                namespace=_ray_namespace(),
            )
        else:
            # Crashed replicas of an earlier Ray on this machine have left their adapters.
            shutil.rmtree(self._settings.data_dir / "adapters", ignore_errors=True)
            ray.init(
                namespace=_ray_namespace(),
                include_dashboard=False,
                _node_ip_address="127.0.0.1",  # reachable from this machine only
                object_store_memory=_OBJECT_STORE_BYTES,
            )
        address = ray.get_runtime_context().gcs_address
        _log.info("ray_ready", address=address, seconds=round(time.monotonic() - started, 1))
        # Ingress replicas listen on ports of their own (dataplane/ingress/replica.py), so Serve's
        # proxy is not needed.
        serve.start(http_options={"location": "NoServer"})
        self._start_system()

    def _start_system(self) -> None:
        from ray import serve

        from dataplane.agent import deployments
        from dataplane.agent.agent import Agent
        from dataplane.ingress.replica import IngressReplica
        from dataplane.relay.actor import open_relay

        settings = self._settings
        open_relay()
        agent = serve.deployment(
            Agent,
            name="agent",
            ray_actor_options={"num_cpus": 0},
            health_check_period_s=2.0,
            graceful_shutdown_timeout_s=20.0,
        )
        ingress = serve.deployment(
            IngressReplica,
            name=deployments.INGRESS_DEPLOYMENT,
            num_replicas=settings.ingress_replicas,
            ray_actor_options={"num_cpus": 0},
            health_check_period_s=2.0,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=settings.drain_s + 10.0,
        )
        deployments.deploy_system(deployments.AGENT_APPLICATION, agent, settings)
        deployments.deploy_system(deployments.INGRESS_APPLICATION, ingress, settings)

    async def watch(self) -> None:
        """Check that Ray is alive. Raises Ray's error when it is gone."""
        import ray

        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            await asyncio.to_thread(ray.cluster_resources)

    def stop(self) -> None:
        """Stop the applications, which drain their requests, and Ray if it was started here."""
        import ray
        from ray import serve

        if not ray.is_initialized():
            return
        try:
            serve.shutdown()
        finally:
            ray.shutdown()


def _ray_namespace() -> str:
    from dataplane.relay.actor import RAY_NAMESPACE

    return RAY_NAMESPACE


def _prepare_environment(settings: Settings) -> None:
    """Set environment variables for Ray and the engines. Those that are set already are kept."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # Ray copies the logs of all replicas to stderr: keep every line, and no colors.
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if not settings.ray_address:
        os.environ.update(LOOPBACK_RAY)
        _protect_own_ray(settings.data_dir / RAY_TOKEN_FILE)


def _protect_own_ray(token_file: Path) -> None:
    """Make the Ray that is started here require a token, unless the operator has configured that.

    A caller of Ray can run code, and other users of this machine reach it. Ray's default token is a
    file in the home directory that every user can read.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    if not token_file.exists():
        token_file.parent.mkdir(parents=True, exist_ok=True)
        scratch = token_file.with_suffix(".tmp")
        scratch.unlink(missing_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        scratch.rename(token_file)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file)


def _tls_fault(settings: Settings) -> str | None:
    """Why the certificate for HTTPS cannot be used. None: it can be, or there is none."""
    if settings.http_tls_cert is None or settings.http_tls_key is None:
        return None
    try:
        TlsFiles(settings.http_tls_cert, settings.http_tls_key).read()
    except TlsFilesError as error:
        return str(error)
    return None


def _port_in_use(settings: Settings) -> str | None:
    """Why the HTTP address is not free. None: it is free.

    The probe does not set SO_REUSEPORT. It would then not notice other listeners.
    """
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except OSError as error:
            return error.strerror or str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
