"""Signed snapshots over a real stream: a control plane that signs, and the keeper of an agent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broadsheet.v1 import snapshot_service_pb2 as pb
from broadsheet.v1.snapshot_pb2 import SnapshotHead
from dataplane.settings import Settings
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.keeper import SnapshotKeeper
from dataplane.sync.snapshot_file import StoredSnapshot
from dataplane.sync.trusted_keys import TrustedKeys, TrustedKeysChanged
from protocol.signing.heads import parse_head, sign_head, verify_head
from protocol.signing.signatures import KEY_NOT_TRUSTED, SIGNATURE_MISSING
from tests.disk import snapshot as unsigned_snapshot
from tests.raw import POLICY
from tests.revoking import IngressInMemory
from tests.signing import private_key, signer, verifier, write_private_keys, write_public_keys
from tests.stream.sync_conditions import holds
from tests.stream.sync_world import ControlPlane, DataPlane, control_plane, eventually
from tests.stream.test_sync_revocations import create, revoke

OLD, NEW, FOREIGN = 1, 2, 3


class Plane:
    """A data plane with a directory, and the real keeper."""

    def __init__(self, directory: Path, *, retry_s: float = 60.0) -> None:
        self.directory = directory
        self.trusted = directory / "trusted.pem"
        self.renewed = directory / "SIGNED_HEAD"
        self.retry_s = retry_s
        self.activated: list[Snapshot] = []
        self.ingress = IngressInMemory()
        directory.mkdir(exist_ok=True)

    def trust(self, *seeds: int) -> None:
        write_public_keys(self.trusted, *seeds)

    def keeper(self, address: str) -> SnapshotKeeper:
        async def activate(snapshot: Snapshot) -> None:
            self.activated.append(snapshot)

        settings = Settings(data_dir=self.directory, data_plane_id="dp", controlplane=address)
        file = self.trusted if self.trusted.exists() else None
        trusted = TrustedKeys(file, self.renewed, reload_interval_s=0.02, retry_s=self.retry_s)
        return SnapshotKeeper(
            settings,
            instance_uid=uuid.uuid4().hex,
            policy=POLICY,
            activate=activate,
            ingress=self.ingress,
            trusted=trusted,
        )

    @asynccontextmanager
    async def running(self, address: str, relayed: StoredSnapshot | None = None) -> AsyncIterator[asyncio.Task[None]]:
        keeper = self.keeper(address)
        await keeper.load(relayed)
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(0)
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    @property
    def revisions(self) -> list[int]:
        return [snapshot.position.revision for snapshot in self.activated]


NOWHERE = "127.0.0.1:1"


@pytest.fixture
def plane_dir(tmp_path: Path) -> Path:
    (tmp_path / "controlplane").mkdir()
    return tmp_path / "controlplane"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_private_keys(tmp_path / "signing.pem", OLD)


async def rejected(plane: ControlPlane, reason: str) -> bool:
    shown = await plane.data_plane()
    return (shown.phase, shown.reason) == (pb.PHASE_REJECTED, reason)


def is_rejected(plane: ControlPlane, reason: str) -> Callable[[], Awaitable[bool]]:
    return lambda: rejected(plane, reason)


def serves(data_plane: Plane, revision: int) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return revision in data_plane.revisions

    return holds


async def test_a_signed_snapshot_is_served_and_kept_with_its_head(tmp_path: Path, plane_dir: Path, keys: Path) -> None:
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(OLD)
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        first = await plane.register("a")
        await eventually(serves(data_plane, first))
        await eventually(serves(data_plane, await plane.register("b")))
    async with control_plane(plane_dir, signing_keys=keys) as another:
        stored = (await another.snapshots.FetchSnapshot(pb.FetchSnapshotRequest())).signed_head
    served = data_plane.activated[-1]
    assert served.signed_head == stored.SerializeToString(), "it is announced with the commit time that is stored"
    assert verify_head(verifier(OLD), served.signed_head, served.position.to_proto(), len(served.entries))
    data_plane.activated.clear()
    async with data_plane.running(NOWHERE):
        await eventually(serves(data_plane, served.position.revision))
    assert data_plane.activated[-1].signed_head == served.signed_head


async def test_the_heads_of_two_control_planes_on_one_store_are_equal(plane_dir: Path, keys: Path) -> None:
    async with control_plane(plane_dir, signing_keys=keys) as plane:
        await plane.register("a")
        first = (await plane.snapshots.FetchSnapshot(pb.FetchSnapshotRequest())).signed_head
        at_revision = (await plane.snapshots.FetchSnapshot(pb.FetchSnapshotRequest(revision=1))).signed_head
    async with control_plane(plane_dir, signing_keys=keys) as plane:
        second = (await plane.snapshots.FetchSnapshot(pb.FetchSnapshotRequest())).signed_head
    assert first == second == at_revision
    assert len(first.signatures) == 1


async def test_only_the_first_page_has_the_signed_head(plane_dir: Path, keys: Path) -> None:
    """Clients merge pages, which would repeat the signatures."""
    async with control_plane(plane_dir, signing_keys=keys) as plane:
        for name in ("a", "b"):
            await plane.register(name)
        page = await plane.snapshots.FetchSnapshot(pb.FetchSnapshotRequest(page_size=1))
        assert page.HasField("signed_head")
        request = pb.FetchSnapshotRequest(page_size=1, page_token=page.next_page_token)
        assert not (await plane.snapshots.FetchSnapshot(request)).HasField("signed_head")


async def test_what_an_unsigned_control_plane_sends_is_refused_until_it_signs(
    tmp_path: Path, plane_dir: Path, keys: Path
) -> None:
    data_plane = Plane(tmp_path / "dp", retry_s=0.2)
    data_plane.trust(OLD)
    async with control_plane(plane_dir, listen="127.0.0.1:0") as plane:
        async with data_plane.running(plane.address):
            revision = await plane.register("a")
            await eventually(is_rejected(plane, SIGNATURE_MISSING))
            assert private_key(OLD).public.id in (await plane.data_plane()).message
        assert data_plane.activated == []
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        await eventually(serves(data_plane, revision))


async def test_an_untrusted_key_is_named_and_the_mistake_heals_here_without_a_restart(
    tmp_path: Path, plane_dir: Path, keys: Path
) -> None:
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(FOREIGN)
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        revision = await plane.register("a")
        await eventually(is_rejected(plane, KEY_NOT_TRUSTED))
        assert private_key(OLD).public.id in (await plane.data_plane()).message
        data_plane.trust(FOREIGN, OLD)
        await eventually(serves(data_plane, revision))


async def test_an_untrusted_key_heals_at_the_control_plane_without_a_restart(
    tmp_path: Path, plane_dir: Path, keys: Path
) -> None:
    data_plane = Plane(tmp_path / "dp", retry_s=0.2)
    data_plane.trust(NEW)
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        revision = await plane.register("a")
        await eventually(is_rejected(plane, KEY_NOT_TRUSTED))
        write_private_keys(keys, OLD, NEW)
        await eventually(serves(data_plane, revision))


async def test_keys_rotate_without_a_gap(tmp_path: Path, plane_dir: Path, keys: Path) -> None:
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(OLD)
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        await eventually(serves(data_plane, await plane.register("a")))
        write_private_keys(keys, OLD, NEW)
        await eventually(lambda: signed_by(plane, OLD, NEW))
        await eventually(serves(data_plane, await plane.register("b")))
        data_plane.trust(OLD, NEW)
        await asyncio.sleep(0.1)
        await eventually(serves(data_plane, await plane.register("c")))
        write_private_keys(keys, NEW)
        await eventually(lambda: signed_by(plane, NEW))
        await eventually(serves(data_plane, await plane.register("d")))
        data_plane.trust(NEW)
        await asyncio.sleep(0.1)
        await eventually(serves(data_plane, await plane.register("e")))
        assert plane.metrics.registry.get_sample_value("broadsheet_controlplane_snapshot_rejections_total") == 0
    assert data_plane.revisions == sorted(set(data_plane.revisions))


async def test_a_catalog_that_does_not_change_gets_new_signatures_for_a_start_without_the_control_plane(
    tmp_path: Path, plane_dir: Path, keys: Path
) -> None:
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(OLD, NEW)
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        revision = await plane.register("a")
        await eventually(serves(data_plane, revision))
        write_private_keys(keys, NEW)
        await eventually(lambda: is_kept(data_plane, NEW))
    data_plane.activated.clear()
    data_plane.trust(NEW)
    async with data_plane.running(NOWHERE):
        await eventually(serves(data_plane, revision))


async def is_kept(data_plane: Plane, seed: int) -> bool:
    if not data_plane.renewed.exists():
        return False
    message, _ = parse_head(data_plane.renewed.read_bytes())
    return [item.key_id for item in message.signatures] == [private_key(seed).public.id]


async def signed_by(plane: ControlPlane, *seeds: int) -> bool:
    head = (await plane.snapshots.FetchSnapshot(pb.FetchSnapshotRequest())).signed_head
    return [item.key_id for item in head.signatures] == [private_key(seed).public.id for seed in seeds]


async def test_a_data_plane_without_trusted_keys_ignores_signatures(plane_dir: Path, keys: Path) -> None:
    async with control_plane(plane_dir, signing_keys=keys) as plane:
        data_plane = DataPlane()
        async with data_plane.running(plane.address):
            await data_plane.active(await plane.register("a"))


async def test_a_forged_file_on_disk_is_not_served(tmp_path: Path, plane_dir: Path, keys: Path) -> None:
    """Its hash, digests and references are right; only the signature is not."""
    data_plane = Plane(tmp_path / "dp")
    for forged in (unsigned_snapshot(9), with_head_of_another(unsigned_snapshot(9))):
        directory = SnapshotDirectory(FileDisk(tmp_path / "dp" / "snapshots"))
        directory.open()
        directory.save(forged)
        directory.close()
        data_plane.trust(OLD)
        async with data_plane.running(NOWHERE):
            await asyncio.sleep(0.05)
        assert data_plane.activated == []
        data_plane.trusted.unlink()
        async with data_plane.running(NOWHERE):
            await asyncio.sleep(0.05)
        assert data_plane.revisions == [9], "without trusted keys it would be served"
        data_plane.activated.clear()


async def test_a_forged_file_leads_to_the_signed_one_before_it(tmp_path: Path) -> None:
    """PREVIOUS is verified too."""
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(OLD)
    directory = SnapshotDirectory(FileDisk(tmp_path / "dp" / "snapshots"))
    directory.open()
    directory.save(with_own_head(unsigned_snapshot(1)))
    directory.save(unsigned_snapshot(2))
    directory.close()
    async with data_plane.running(NOWHERE):
        await eventually(serves(data_plane, 1))
    data_plane.activated.clear()
    data_plane.trust(FOREIGN)
    async with data_plane.running(NOWHERE):
        await asyncio.sleep(0.05)
    assert data_plane.activated == []


def with_own_head(made: Snapshot) -> Snapshot:
    head = SnapshotHead(position=made.position.to_proto(), entry_count=len(made.entries))
    return replace(made, signed_head=sign_head(signer(OLD), head).SerializeToString())


def with_head_of_another(forged: Snapshot) -> Snapshot:
    other = unsigned_snapshot(8)
    head = SnapshotHead(position=other.position.to_proto(), entry_count=len(other.entries))
    return replace(forged, signed_head=sign_head(signer(OLD), head).SerializeToString())


async def test_a_forged_snapshot_in_the_relay_is_not_served(tmp_path: Path) -> None:
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(OLD)
    forged = unsigned_snapshot(9)
    relayed = StoredSnapshot(position=forged.position, entries=tuple(forged.entries), signed_head=b"")
    async with data_plane.running(NOWHERE, relayed):
        await asyncio.sleep(0.05)
    assert data_plane.activated == []


async def test_an_agent_that_trusts_nothing_on_disk_starts_anew_when_its_keys_are_right(
    tmp_path: Path, plane_dir: Path, keys: Path
) -> None:
    """With the control plane down, so that only the disk has the snapshot."""
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(OLD)
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        await eventually(serves(data_plane, await plane.register("a")))
    data_plane.activated.clear()
    data_plane.trust(FOREIGN)
    async with data_plane.running(NOWHERE) as task:
        await asyncio.sleep(0.05)
        assert data_plane.activated == []
        data_plane.trust(OLD)
        await asyncio.wait([task], timeout=10)
        failure = task.exception()
    assert isinstance(failure, ExceptionGroup)
    assert failure.subgroup(TrustedKeysChanged) is not None
    async with data_plane.running(NOWHERE):
        await eventually(serves(data_plane, 1))


async def test_an_old_signed_head_is_not_served_again(tmp_path: Path, plane_dir: Path, keys: Path) -> None:
    """A replay: whoever recorded the stream sends revision 1 to a data plane that serves 2."""
    data_plane = Plane(tmp_path / "dp")
    data_plane.trust(OLD)
    async with control_plane(plane_dir, signing_keys=keys) as plane, data_plane.running(plane.address):
        first = await plane.register("a")
        await eventually(serves(data_plane, first))
        await eventually(serves(data_plane, await plane.register("b")))
    recorded = next(item for item in data_plane.activated if item.position.revision == first)
    data_plane.activated.clear()
    entries = tuple(recorded.entries)
    relayed = StoredSnapshot(position=recorded.position, entries=entries, signed_head=recorded.signed_head)
    async with data_plane.running(NOWHERE, relayed):
        await eventually(serves(data_plane, 2))
    assert data_plane.revisions == [2]


async def test_revocations_are_taken_from_a_trusted_control_plane_only(tmp_path: Path) -> None:
    keys = write_private_keys(tmp_path / "signing.pem", 1)
    trusting, others = Plane(tmp_path / "trusting"), Plane(tmp_path / "others")
    trusting.trust(1)
    others.trust(2)
    async with control_plane(tmp_path, signing_keys=keys) as plane:
        created = await create(plane)
        await revoke(plane)
        with capture_logs() as logs:
            async with others.running(plane.address):
                await eventually(lambda: holds(any(log["event"] == "revocations_refused" for log in logs)))
        assert not others.ingress.revoked
        async with trusting.running(plane.address):
            await eventually(lambda: holds(bool(trusting.ingress.revoked)))
        assert list(trusting.ingress.revoked) == [created.api_key.uid]
