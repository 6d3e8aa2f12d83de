"""Puts the control plane together, and runs it until a signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import grpc
import structlog
import uvloop

from controlplane import backup_command, errors, keys_command, logs, settings
from controlplane.access import setup as access
from controlplane.access.enrolled import EnrolledDataPlanes
from controlplane.adapters.verification import AdapterVerifier
from controlplane.fleet.fleet import Fleet, fleet_of
from controlplane.fleet.shared_database import sharing_of
from controlplane.fleet.waves.waves import Waves
from controlplane.metrics.endpoint import MetricsEndpoint
from controlplane.metrics.metrics import Metrics
from controlplane.push.chunks import ChunkCache
from controlplane.push.credential_watch import CredentialWatch
from controlplane.push.fan_out import FanOut
from controlplane.push.head_signing import HeadSigner, signing_keys
from controlplane.push.reported_names import CatalogNames
from controlplane.push.revocation_batches import RevocationBatches
from controlplane.push.sync import SyncHandler
from controlplane.rpc import tls
from controlplane.rpc.handlers.registry import Registry
from controlplane.rpc.server import Server
from controlplane.rpc.servicers import FleetServicer, RegistryServicer, SnapshotServicer
from controlplane.settings import Settings
from controlplane.store.store import Store
from controlplane.upkeep import audit_retention, rollouts
from controlplane.upkeep.purging import purge_for_ever
from controlplane.upkeep.retention import run_compaction
from controlplane.upkeep.waves import WavesUpkeep
from protocol.transport.open_files import allow_connections

EXIT_SETUP = 1
"""The process could not start; for example, the port is taken."""

EXIT_USAGE = 2
"""A setting is invalid."""

COLLECT_AFTER_OBJECTS = 20_000
"""New objects, less those that are gone, until the garbage collector looks at them."""

_log = structlog.get_logger("controlplane")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the control plane from flags (`argv`; by default those of the process) and environment.

    Returns:
        The exit status: 0 after a signal to stop.
    """
    arguments = sys.argv[1:] if argv is None else argv
    for commands in (backup_command, keys_command):
        if arguments and arguments[0] in commands.COMMANDS:
            try:
                commands.run(arguments[0], arguments[1:])
            except errors.SetupError as error:
                return _complain(error, EXIT_SETUP)
            return 0
    try:
        loaded = settings.load(arguments)
    except errors.SetupError as error:
        return _complain(error, EXIT_USAGE)
    logs.configure(loaded.log_format)
    collect_rarely()
    try:
        uvloop.run(run(loaded))
    except errors.SetupError as error:
        return _complain(error, EXIT_SETUP)
    return 0


def collect_rarely() -> None:
    """Look for garbage in cycles less often than by default, which is after 700 new objects.

    A change that goes to a fleet makes some hundred short-lived objects for each data plane, hardly
    any of them in a cycle. For 500 data planes, the collector took a sixth of the CPU of a change.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)


def _now() -> datetime:
    return datetime.now(UTC)


def _complain(error: BaseException, status: int) -> int:
    sys.stderr.write(f"broadsheet controlplane: {error}\n")
    return status


def _connections_max(settings: Settings) -> int:
    allowed = allow_connections(settings.connections_max)
    if allowed < settings.connections_max:
        _log.warning("open_files_limit_is_low", connections_max=settings.connections_max, connections_allowed=allowed)
    return allowed


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        errors.SetupError: it cannot start.
    """
    stop = asyncio.Event()
    credentials = _credentials(settings)
    heads = HeadSigner(signing_keys(settings))
    metrics = Metrics(clock=time.monotonic)
    opening = Store.open(
        settings.store_url,
        connections_max=settings.database_connections_max,
        deleted_retention=timedelta(days=settings.deleted_retention_days),
        measure=metrics.committed,
        measure_database=metrics.database_operation,
    )
    async with _signals(stop), opening as store:
        enrolled = EnrolledDataPlanes(store.enrollments, clock=time.monotonic)
        admitted = access.configured(settings, enrolled, now=_now)
        verifier = AdapterVerifier(size_bytes_max=settings.adapter_bytes_max, allowed_sources=settings.allowed_sources)
        fleet = fleet_of(store, head=await store.head(), waves=store.waves, sharing=sharing_of(store))
        await fleet.waves.refresh()
        fan_out = FanOut(fleet, now=_now)
        _follow_commits(store, metrics, fan_out, fleet.waves)
        server = Server(
            message_bytes_max=settings.message_bytes_max,
            streams_max=settings.streams_max,
            connections_max=_connections_max(settings),
            admit=admitted.authenticator.admit,
            holder_of=store.holder_of,
            metrics=metrics,
        )
        sync = _sync_handler(store, fan_out, admitted, heads, metrics)
        registry = Registry(
            store=store,
            adapter_verifier=verifier,
            resource_statuses=fleet.statuses,
            allowed_engine_args=settings.allowed_engine_args,
            signed_head=heads.signed,
        )
        server.add(RegistryServicer(registry), SnapshotServicer(registry, sync), FleetServicer(store, fleet, enrolled))
        try:
            address = await server.start(settings.listen, credentials)
            generated = admitted.generated
            with generated.left_for(address) if generated is not None else contextlib.nullcontext():
                async with _shown(metrics, settings.metrics_listen):
                    await _serve(settings, store, server, fleet, fan_out, admitted, metrics, heads, address, stop)
            _log.info("stopped")
        finally:
            # Also after a failure: an RPC must not outlive the store.
            await server.stop(0)
            verifier.close()


def _sync_handler(
    store: Store, fan_out: FanOut, admitted: access.Access, heads: HeadSigner, metrics: Metrics
) -> SyncHandler:
    revocations = RevocationBatches(
        store.revocations,
        store_uid=fan_out.head.position.store_uid,
        signer=lambda: heads.signer,
    )
    return SyncHandler(
        fan_out,
        ChunkCache(store),
        CatalogNames(store.reported_names),
        revocations,
        identify=admitted.identities.identify,
        heads=heads,
        metrics=metrics,
    )


async def _serve(
    settings: Settings,
    store: Store,
    server: Server,
    fleet: Fleet,
    fan_out: FanOut,
    admitted: access.Access,
    metrics: Metrics,
    heads: HeadSigner,
    address: str,
    stop: asyncio.Event,
) -> None:
    position = fan_out.head.position
    _log.info("listening", address=address, store_uid=position.store_uid, catalog_revision=position.revision)
    watch = CredentialWatch(lambda: fan_out.streams, admitted.authenticator.admit, admitted.identities.identify)
    async with asyncio.TaskGroup() as group:
        background = [
            group.create_task(watch.run()),
            group.create_task(admitted.enrolled.run()),
            group.create_task(fleet.writer.run()),
            group.create_task(fleet.database.run(lambda: fan_out.oldest_in_use)),
            group.create_task(heads.follow(fan_out.announce_again)),
            group.create_task(fleet.waves.follow()),
            group.create_task(WavesUpkeep(store, fleet, now=_now, clock=time.monotonic).run()),
            group.create_task(purge_for_ever(store)),
            group.create_task(run_compaction(store, settings.retention, lambda: fan_out.oldest_in_use)),
            group.create_task(rollouts.advance_for_ever(store, fleet.statuses.observed, now=_now)),
        ]
        if settings.audit_retention_days:
            kept = timedelta(days=settings.audit_retention_days)
            backlog = audit_retention.Backlog(store.audit.oldest_time, kept, now=_now)
            metrics.show_audit_backlog(backlog.overdue_s)
            background.append(group.create_task(audit_retention.run(store, kept, now=_now, backlog=backlog)))
        await stop.wait()
        await _drain(server, fan_out, settings.drain_s)
        for task in background:
            task.cancel()
    await fleet.database.leave()


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return tls.server_credentials(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _follow_commits(store: Store, metrics: Metrics, fan_out: FanOut, waves: Waves) -> None:
    _measure(metrics, fan_out, waves)
    store.commits.subscribe(lambda head: metrics.announced(head.position.revision))
    store.commits.subscribe(lambda head: metrics.revoked(head.revocations_sequence))
    store.commits.subscribe(fan_out.publish)


def _measure(metrics: Metrics, fan_out: FanOut, waves: Waves) -> None:
    metrics.begin_at(fan_out.head.position.revision)
    metrics.revocations_begin_at(fan_out.head.revocations_sequence)
    metrics.count_streams(fan_out.streams_by_state)
    metrics.count_data_planes(fan_out.data_planes_by_phase)
    metrics.count_lags(fan_out.data_planes_by_lag)
    metrics.count_behind_with_revocations(lambda: fan_out.behind_with_revocations)
    metrics.count_waves(waves.by_state, lambda: waves.wave, lambda: waves.held_count)


@contextlib.asynccontextmanager
async def _shown(metrics: Metrics, listen: str) -> AsyncIterator[None]:
    if not listen:
        yield
        return
    async with MetricsEndpoint(metrics.registry).listening(listen) as address:
        _log.info("metrics_listening", address=address)
        yield


async def _drain(server: Server, fan_out: FanOut, drain_s: float) -> None:
    _log.info("draining", drain_s=drain_s)
    await server.announce_stop()
    await fan_out.shutdown()
    await server.stop(drain_s)


@contextlib.asynccontextmanager
async def _signals(stop: asyncio.Event) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


if __name__ == "__main__":
    sys.exit(main())
