"""The two kinds of Ray cluster that a data plane runs on. Methods block, but for `watch`."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from dataplane.launch.environment import check_port, prepare_environment, prepare_own_ray
from dataplane.launch.errors import LaunchRefused
from dataplane.launch.joining import join
from dataplane.launch.record import LaunchRecord, differences, refusal
from dataplane.settings import Settings

if TYPE_CHECKING:
    from dataplane.launch.log_follower import LogFollower

_OBJECT_STORE_BYTES = 512 * 1024 * 1024
"""Only snapshots go through Ray's object store. Its default would be a third of the memory."""
_WATCH_INTERVAL_S = 5.0
"""Time between two checks that Ray is alive."""

_log = structlog.get_logger("dataplane")


class Cluster(Protocol):
    """Ray, with the agent and the ingress on it."""

    def start(self) -> None:
        """Start or join Ray, then the agent and the ingress. Returns when the ingress listens.

        Raises:
            LaunchRefused: Something stands against it.
        """

    async def watch(self) -> None:
        """Returns when the data plane was stopped by somebody else.

        Raises:
            Exception: Ray's, when it is gone.
        """

    def stop(self) -> None:
        """Leave the cluster."""


class OwnCluster:
    """A Ray that is started here, on loopback, and ends with this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start(self) -> None:
        settings = self._settings
        check_port(settings)
        prepare_environment()
        prepare_own_ray(settings.data_dir)  # before the import, because Ray reads its environment then
        import ray

        started = time.monotonic()
        # Crashed replicas of an earlier Ray on this machine have left their adapters.
        shutil.rmtree(settings.data_dir / "adapters", ignore_errors=True)
        ray.init(
            namespace=_ray_namespace(),
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            object_store_memory=_OBJECT_STORE_BYTES,
        )
        _log_ready(started)
        from dataplane.launch import records, system

        system.deploy(settings, records.record_of(settings).version)

    async def watch(self) -> None:
        import ray

        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            await asyncio.to_thread(ray.cluster_resources)

    def stop(self) -> None:
        """Stop the applications, which drain their requests, and Ray."""
        import ray
        from ray import serve

        if not ray.is_initialized():
            return
        try:
            serve.shutdown()
        finally:
            ray.shutdown()


class JoinedCluster:
    """A Ray that others may use too. What is deployed there outlives this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._deployed = False
        self._follower: LogFollower | None = None

    def start(self) -> None:
        settings = self._settings
        started = time.monotonic()
        join(settings.ray_address)
        _log_ready(started)
        from dataplane.launch import records, system
        from dataplane.launch.log_follower import LogFollower

        record = self._agreed_record(records.read_all(), records.record_of(settings))
        if not settings.detach:
            self._follower = LogFollower(settings.data_plane_id)
            self._follower.start()
        records.write(settings.data_plane_id, record)
        self._deployed = True
        system.deploy(settings, record.version)

    def _agreed_record(self, known: dict[str, LaunchRecord], asked: LaunchRecord) -> LaunchRecord:
        """What is to run, given what is known to run."""
        from dataplane.agent.deployments import any_system_application_failed

        data_plane_id = self._settings.data_plane_id
        running = known.pop(data_plane_id, None)
        if (fault := refusal(data_plane_id, asked, running, known)) is not None:
            raise LaunchRefused(fault)
        if running is None:
            check_port(self._settings)
            return asked
        if changes := differences(running, asked):
            _log.info("data_plane_found_and_updated", data_plane=data_plane_id, changes="; ".join(changes))
            return asked
        _log.info("data_plane_found_as_asked_for", data_plane=data_plane_id)
        failed = any_system_application_failed(data_plane_id)
        return replace(running, attempt=running.attempt + 1) if failed else running

    async def watch(self) -> None:
        from dataplane.launch import records

        # Polled: Ray's store of keys and values tells nobody of a change.
        while await asyncio.to_thread(records.read, self._settings.data_plane_id) is not None:  # noqa: ASYNC110
            await asyncio.sleep(_WATCH_INTERVAL_S)
        self._deployed = False
        _log.info("data_plane_was_stopped", data_plane=self._settings.data_plane_id)

    def stop(self) -> None:
        import ray

        if not ray.is_initialized():
            return
        if self._follower is not None:
            self._follower.stop()
        ray.shutdown()
        if self._deployed:
            _log.info(
                "data_plane_keeps_running",
                data_plane=self._settings.data_plane_id,
                ray_address=self._settings.ray_address,
                end_it_with="broadsheet dataplane stop",
            )


def _log_ready(started: float) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    _log.info("ray_ready", address=address, seconds=round(time.monotonic() - started, 1))


def _ray_namespace() -> str:
    from dataplane.relay.actor import RAY_NAMESPACE

    return RAY_NAMESPACE
