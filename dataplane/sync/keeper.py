"""Keeps the active snapshot: from disk at start, then from the control plane."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.metadata import version

import structlog

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1 import status_pb2
from dataplane.settings import Settings
from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.position_check import is_behind
from dataplane.snapshot.rejection import ROOT_DIGEST_MISMATCH, SIGNATURE_REASONS, Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.channel import channel_for
from dataplane.sync.client import SyncClient
from dataplane.sync.directory import CRASHED_REPEATEDLY, DiskError, SnapshotDirectory
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.enrollment.redeeming import metadata_of
from dataplane.sync.events import Accepted, Diverged, Identity, Rejected
from dataplane.sync.revocations.file import RevocationsFile
from dataplane.sync.revocations.keeper import Ingress, RevocationKeeper
from dataplane.sync.snapshot_file import StoredSnapshot
from dataplane.sync.stored.booting import Verify
from dataplane.sync.stream.reconnecting import Connection
from dataplane.sync.trusted_keys import TrustedKeys

_SETTLE_INTERVAL_S = 5.0

RETRY_CRASHED_S = 300.0
"""After this time in service without it, a snapshot that crashed repeatedly is tried again: what
went down with it may have been the machine, and keys that it revokes work meanwhile."""

_log = structlog.get_logger("dataplane.sync.keeper")


class ActivationFailed(Exception):
    """An accepted snapshot could not be put into service. The fault is in this process."""


class SnapshotKeeper:
    """Owns the directory on disk and the Sync stream. Call `load`, then `run`.

    Invariant: `snapshot` is exactly one committed snapshot, or None before the first one. It is
    replaced as a whole.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        instance_uid: str,
        policy: Policy,
        activate: Callable[[Snapshot], Awaitable[None]],
        ingress: Ingress,
        retry_crashed_s: float = RETRY_CRASHED_S,
        trusted: TrustedKeys | None = None,
    ) -> None:
        """
        Args:
            settings: Settings of the data plane.
            instance_uid: Differs for each start of the agent.
            policy: What this data plane accepts.
            activate: Puts a snapshot into service. Returns when requests are decided by it.
            ingress: Where revocations of API keys are applied.
            retry_crashed_s: When a snapshot that crashed repeatedly is tried again.
            trusted: The keys of whom snapshots are taken. Default: as the settings say.
        """
        self.snapshot: Snapshot | None = None
        self._settings = settings
        self._trusted = trusted or TrustedKeys(settings.trusted_keys, settings.data_dir / "SIGNED_HEAD")
        self._policy = dataclasses.replace(policy, refuse_head=self._trusted.refuse)
        self._activate = activate
        self._retry_crashed_s = retry_crashed_s
        self.withdrawn: frozenset[Position] = frozenset()
        """Rejected because the data plane crashed repeatedly, as found at start."""
        self._identity = _identity(settings, instance_uid)
        disk = FileDisk(settings.data_dir / "snapshots")
        self._disk = SnapshotDirectory(disk)
        self._revocations = _revocation_keeper(disk, self._disk, ingress, self._trusted)
        self.revocations = self._revocations.stream
        """Where revocations go, and what is said of them."""
        self._disk_open = False
        self._warning = ""
        """Why the snapshot in service is not on disk; empty if it is."""
        self._client: SyncClient | None = None
        self._resources: Mapping[str, status_pb2.ResourceStatus] = {}
        self._fault: Exception | None = None
        self._failed = asyncio.Event()

    async def load(self, relayed: StoredSnapshot | None = None) -> None:
        """Find the snapshot to start with: the newest of the one on disk and `relayed`.

        Args:
            relayed: What an earlier agent has put into service; None if it is not known.

        Raises:
            DirectoryInUse: Another data plane uses the directory.
            TrustedKeysUnusable: The file of trusted keys cannot be used.
        """
        self._trusted.read()
        try:
            await asyncio.to_thread(self._disk.open)
            self._disk_open = True
        except DiskError as error:
            _log.error("serving_from_memory", error=str(error))
        await self._revocations.load()
        verify = functools.partial(accept, held=None, policy=self._policy)
        boot = await asyncio.to_thread(self._disk.boot, verify)
        self.snapshot = boot.snapshot
        self.withdrawn = frozenset(item.position for item in boot.rejected if item.reason == CRASHED_REPEATEDLY)
        for unreadable in boot.unreadable:
            _log.error("snapshot_unreadable", file=unreadable.file, reason=unreadable.reason, error=unreadable.message)
            self._trusted.refused_at_start |= unreadable.reason in SIGNATURE_REASONS
        if relayed is not None:
            await self._take_over(relayed, verify)
        self._client = SyncClient(
            self._settings.controlplane,
            identity=self._identity,
            policy=self._policy,
            handlers=self,
            serving=self.snapshot.position if self.snapshot else None,
            with_errors=bool(self.snapshot and self.snapshot.quarantined),
            warning=self._warning,
            rejected=boot.rejected,
            open_channel=functools.partial(channel_for, self._settings.credentials),
            metadata=metadata_of(self._settings),
        )

    async def _take_over(self, relayed: StoredSnapshot, verify: Verify) -> None:
        """Serve what was in service, unless the disk has a newer one.

        Snapshots are kept on disk before they are put into service. So the disk is behind only if
        it could not be written, or was damaged; and then what was acknowledged is not on it. The
        same holds of a snapshot of another store.
        """
        held = self.snapshot.position if self.snapshot is not None else None
        if relayed.position == held or is_behind(relayed.position, held) or relayed.position in self.withdrawn:
            return
        found = await asyncio.to_thread(verify, relayed.position, relayed.entries, signed_head=relayed.signed_head)
        if isinstance(found, Rejection):
            self._trusted.refused_at_start |= found.reason in SIGNATURE_REASONS
            _log.error("relayed_snapshot_refused", reason=found.reason, error=found.message)
            return
        _log.warning("relayed_snapshot_taken_over", revision=found.position.revision)
        await self._save(found)
        self.snapshot = found

    async def run(self) -> None:
        """Stay connected to the control plane. Runs until it is cancelled.

        Raises:
            ActivationFailed: The held snapshot could not be put into service.
        """
        client = self._client
        assert client is not None, "load comes first"
        try:
            if self.snapshot is not None:
                await self._activate(self.snapshot)
            client.report(self._resources)
            async with asyncio.TaskGroup() as group:
                group.create_task(client.run())
                group.create_task(_settle_for_ever(self._disk))
                group.create_task(self._revocations.run())
                group.create_task(self._retry_crashed(client))
                group.create_task(self._trusted.follow(self._ask_again, serving=lambda: self.snapshot))
                group.create_task(self._trusted.keep_renewed(lambda: client.renewed_head))
                group.create_task(self._watch_for_fault())
        finally:
            self._disk.close()

    def report(self, resources: Mapping[str, status_pb2.ResourceStatus], traffic: pb.Traffic | None = None) -> None:
        """Report the current states of resources to the control plane; only changes are sent.

        Args:
            resources: The states, by resource name.
            traffic: What the ingress has answered; None: as before.
        """
        self._resources = resources
        if self._client is not None:
            self._client.report(resources, traffic)

    def report_waiting(self, message: str) -> None:
        """Report what the snapshot that is being put into service waits for, for people to read."""
        if self._client is not None:
            self._client.waits(message)

    async def _watch_for_fault(self) -> None:
        await self._failed.wait()
        raise ActivationFailed("a snapshot could not be put into service") from self._fault

    async def _retry_crashed(self, client: SyncClient) -> None:
        """Ask once for the snapshots that were rejected because of crashes.

        If they crash again, the next agent rejects them, and asks again after the same time.
        """
        if not self.withdrawn:
            return
        await asyncio.sleep(self._retry_crashed_s)
        for position in self.withdrawn:
            try:
                await asyncio.to_thread(self._disk.forget, position)
            except DiskError as error:
                _log.error("rejection_not_taken_back", revision=position.revision, error=str(error))
        _log.info("crashed_snapshots_tried_again", revisions=[position.revision for position in self.withdrawn])
        client.take_back(self.withdrawn, instance_uid=f"{self._identity.instance_uid}-2")

    def _ask_again(self, positions: Iterable[Position], number: int) -> None:
        assert self._client is not None, "load comes first"
        self._client.take_back(positions, instance_uid=f"{self._identity.instance_uid}-k{number}")

    # -- what the Sync stream calls ----------------------------------------------------------------

    async def on_snapshot(
        self, position: Position, entries: Sequence[RawEntry], signed_head: bytes = b""
    ) -> Accepted | Rejection:
        """Check a snapshot, keep it on disk, put it into service."""
        accepted = await asyncio.to_thread(
            accept, position, entries, held=self.snapshot, policy=self._policy, signed_head=signed_head
        )
        return accepted if isinstance(accepted, Rejection) else await self._take(accepted)

    async def on_change(
        self, position: Position, change: Change, signed_head: bytes = b""
    ) -> Accepted | Rejection | Diverged:
        """Apply a change to the snapshot in service, then do the same."""
        held = self.snapshot
        assert held is not None, "a change begins at the snapshot in service"
        assert held.position == change.base, "a change begins at the snapshot in service"
        accepted = await asyncio.to_thread(accept_change, position, change, held, self._policy, signed_head=signed_head)
        if not isinstance(accepted, Rejection):
            return await self._take(accepted, change)
        if accepted.reason == ROOT_DIGEST_MISMATCH:
            _log.error("change_did_not_come_out", revision=position.revision, base=change.base.revision)
            return Diverged()
        return accepted

    async def _take(self, accepted: Snapshot, change: Change | None = None) -> Accepted:
        position = accepted.position
        # On disk first: after a crash no request is served by an older snapshot.
        await self._save(accepted, change)
        self.snapshot = accepted
        try:
            await self._activate(accepted)
        except Exception as error:
            # The snapshot is held, so it cannot be rejected, and it does not serve, so it cannot be
            # acknowledged. `run` fails, which ends the agent and cancels this wait. The next agent
            # starts with the snapshot on disk.
            self._fault = error
            self._failed.set()
            await asyncio.Event().wait()
        _log.info(
            "snapshot_active",
            revision=position.revision,
            entries=len(accepted.entries),
            quarantined=len(accepted.quarantined),
        )
        return Accepted(with_errors=bool(accepted.quarantined), warning=self._warning)

    async def _save(self, snapshot: Snapshot, change: Change | None = None) -> None:
        try:
            if not self._disk_open:
                await asyncio.to_thread(self._disk.open)
                self._disk_open = True
            await asyncio.to_thread(self._disk.save, snapshot, change)
        except DiskError as error:
            # The snapshot serves, but a restart may find an older one. Operators must know.
            _log.error("serving_from_memory", revision=snapshot.position.revision, error=str(error))
            self._warning = f"served from memory, and not on the disk of the data plane: {error}"
        else:
            self._warning = ""

    def held_entries(self) -> Iterable[RawEntry]:
        """The entries of the snapshot in service, ordered by name."""
        return self.snapshot.entries if self.snapshot is not None else ()

    async def on_rejected(self, rejected: Rejected) -> None:
        """Remember a rejection across restarts; for its signature, until it is asked for again."""
        if rejected.reason in SIGNATURE_REASONS:
            self._trusted.rejected(rejected.position)
            return
        await asyncio.to_thread(self._disk.reject, rejected)

    def on_connection(self, connection: Connection) -> None:
        """Do nothing: the Sync client logs changes of the connection."""


def _revocation_keeper(
    disk: FileDisk, directory: SnapshotDirectory, ingress: Ingress, trusted: TrustedKeys
) -> RevocationKeeper:
    file = RevocationsFile(disk, "REVOCATIONS", with_room=lambda write: directory.reserve.with_room(write))
    return RevocationKeeper(file, ingress, verifier=lambda: trusted.verifier)


def _identity(settings: Settings, instance_uid: str) -> Identity:
    return Identity(
        data_plane=settings.data_plane_id,
        instance_uid=instance_uid,
        http_address=settings.http_url,
        software_version=version("broadsheet"),
        labels=settings.labels_by_key,
    )


async def _settle_for_ever(disk: SnapshotDirectory) -> None:
    while True:
        await asyncio.sleep(_SETTLE_INTERVAL_S)
        await asyncio.to_thread(disk.settle)
