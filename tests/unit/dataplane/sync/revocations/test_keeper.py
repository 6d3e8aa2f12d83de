"""Revocations are applied first, then kept, and then reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.revocations.revoked_keys import RevocationsPosition
from dataplane.snapshot.snapshot import Position
from dataplane.sync.disk.file_disk import FileDisk
from dataplane.sync.revocations import keeper as revocation_keeper
from dataplane.sync.revocations.file import RevocationsFile
from dataplane.sync.revocations.keeper import RevocationKeeper
from protocol.signing.signatures import REVOCATION_BATCH, SNAPSHOT_HEAD, Verifier
from tests.disk import become_read_only
from tests.revoking import IngressInMemory, batch
from tests.signing import signer, verifier

HEAD = Position(store_uid="store", revision=1, digest=bytes(32))


class World:
    """A disk and an ingress that outlive agents."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "REVOCATIONS"
        self.ingress = IngressInMemory()

    async def start(self, trusted: Verifier | None = None) -> RevocationKeeper:
        file = RevocationsFile(FileDisk(self.path.parent), self.path.name, with_room=lambda write: write())
        keeper = RevocationKeeper(file, self.ingress, verifier=lambda: trusted)
        await keeper.load()
        keeper.stream.open()
        await keeper.stream.receive(pb.SyncResponse(heartbeat=pb.Heartbeat(head=HEAD.to_proto())))
        return keeper

    def on_disk(self) -> tuple[tuple[str, ...], int]:
        stored = RevocationsFile(FileDisk(self.path.parent), self.path.name, with_room=lambda write: write()).read()
        return stored.key_uids, stored.position.sequence


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@asynccontextmanager
async def running(keeper: RevocationKeeper) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def reported(keeper: RevocationKeeper) -> pb.Status | None:
    message = keeper.stream._reports.take_message(HEAD, with_errors=False)
    return message.status if message is not None else None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.005)


async def test_a_revocation_is_applied_and_kept_before_it_is_reported(world: World) -> None:
    keeper = await world.start()
    world.ingress.keeps_up.clear()
    async with running(keeper):
        assert await keeper.take(batch("a", "b"))
        assert set(world.ingress.revoked) == {"a", "b"}
        assert world.on_disk() == (("a", "b"), 2)
        await asyncio.sleep(0.01)
        assert reported(keeper) is None, "an ingress replica lags"
        world.ingress.keeps_up.set()
        await until(lambda: keeper.stream._reports._applied_due)
        status = reported(keeper)
        assert status is not None
        assert status.revocations_sequence == 2


async def test_a_new_agent_finds_them_on_disk_and_gives_them_to_a_relay_that_was_restarted(world: World) -> None:
    await (await world.start()).take(batch("a", "b"))
    world.ingress = IngressInMemory()
    keeper = await world.start()
    assert set(world.ingress.revoked) == {"a", "b"}
    assert keeper.position == RevocationsPosition(store_uid="store", sequence=2)
    assert keeper.stream._reports.kept == keeper.position


async def test_a_new_agent_unites_disk_and_relay_and_keeps_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await world.start()
    await first.take(batch("a"))
    with monkeypatch.context() as patch:
        become_read_only(patch)
        await first.take(batch("b", after=1))
    assert world.on_disk() == (("a",), 1)
    keeper = await world.start()
    assert keeper.position.sequence == 2
    assert world.on_disk() == (("a", "b"), 2)


async def test_what_cannot_be_kept_is_applied_and_reported_with_a_warning_until_the_disk_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_keeper, "RETRY_S", 0.02)
    keeper = await world.start()
    async with running(keeper):
        with monkeypatch.context() as patch, capture_logs() as logs:
            become_read_only(patch)
            assert await keeper.take(batch("a"))
            assert "a" in world.ingress.revoked
            await until(lambda: bool(keeper.stream._reports._warning))
            status = reported(keeper)
            assert status is not None
            assert status.revocations_sequence == 1
            assert "not kept on disk" in status.message
        assert "revocations_not_on_disk" in {log["event"] for log in logs}
        await until(lambda: not keeper.stream._reports._warning)
        assert world.on_disk() == (("a",), 1)
        status = reported(keeper)
        assert status is not None
        assert (status.phase, status.message) == (pb.PHASE_ACTIVE, "")


async def test_a_damaged_file_is_an_alarm_and_everything_is_asked_for_again(world: World) -> None:
    keeper = await world.start()
    for number, uid in enumerate(["a" * 32, "b" * 32, "c" * 32]):
        await keeper.take(batch(uid, after=number))
    world.ingress = IngressInMemory()
    content = world.path.read_bytes()
    world.path.write_bytes(content.replace(b"b" * 32, b"x" * 32))
    with capture_logs() as logs:
        keeper = await world.start()
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["revocations_damaged"]
    assert set(world.ingress.revoked) == {"a" * 32, "c" * 32}, "what can be read stays revoked"
    assert keeper.stream._reports.kept.sequence == 0
    assert await keeper.take(batch("a" * 32, "b" * 32, "c" * 32))
    assert "b" * 32 in world.ingress.revoked
    assert world.on_disk() == (("a" * 32, "c" * 32, "b" * 32), 3)


async def test_a_gap_asks_for_a_new_stream(world: World) -> None:
    keeper = await world.start()
    assert await keeper.take(batch("a"))
    assert not await keeper.take(batch("c", after=2))
    assert set(world.ingress.revoked) == {"a"}


async def test_a_replay_is_not_written_again_but_reported(world: World) -> None:
    keeper = await world.start()
    await keeper.take(batch("a", "b"))
    before = world.path.stat().st_mtime_ns
    async with running(keeper):
        await until(lambda: reported(keeper) is not None)
        assert await keeper.take(batch("a", "b"))
        await until(lambda: reported(keeper) is not None)
    assert world.path.stat().st_mtime_ns == before


def signed(sent: pb.Revocations, *seeds: int, context: str = REVOCATION_BATCH) -> pb.Revocations:
    return pb.Revocations(payload=sent.payload, signatures=signer(*seeds).sign(context, sent.payload))


async def test_a_batch_that_a_trusted_key_has_signed_is_taken(world: World) -> None:
    keeper = await world.start(verifier(1, 2))
    assert await keeper.take(signed(batch("a"), 2, 9))
    assert set(world.ingress.revoked) == {"a"}


@pytest.mark.parametrize(
    "forged",
    [
        batch("a"),
        signed(batch("a"), 9),
        signed(batch("a"), 1, context=SNAPSHOT_HEAD),
        pb.Revocations(payload=batch("a").payload, signatures=signer(1).sign(REVOCATION_BATCH, b"another")),
        pb.Revocations(payload=batch("a").payload, signatures=[snapshot_pb2.Signature(key_id="", signature=b"")] * 99),
        signed(batch("a", last=5), 1),
    ],
    ids=["unsigned", "unknown-key", "other-context", "other-payload", "many", "malformed"],
)
async def test_a_batch_that_cannot_be_trusted_or_read_is_an_alarm_and_not_applied(
    world: World, forged: pb.Revocations
) -> None:
    keeper = await world.start(verifier(1))
    with capture_logs() as logs:
        assert await keeper.take(forged), "the stream goes on: snapshots have the revocations, too"
    assert [(log["event"], log["log_level"]) for log in logs] == [("revocations_refused", "error")]
    assert not world.ingress.revoked
    assert not world.path.exists() or world.on_disk() == ((), 0)
    assert await keeper.take(signed(batch("a"), 1)), "the good one is taken afterwards"
    assert set(world.ingress.revoked) == {"a"}


async def test_what_was_not_trusted_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trusted keys may have been changed by then."""
    monkeypatch.setattr(revocation_keeper, "RETRY_S", 0.02)
    keeper, restarts = await world.start(verifier(1)), list[bool]()
    keeper.stream.connect(wake=lambda: None, restart=lambda: restarts.append(True))
    async with running(keeper):
        await keeper.take(batch("a"))
        await until(lambda: bool(restarts))
        await keeper.take(signed(batch("a", last=5), 1))
        await asyncio.sleep(0.1)
    assert len(restarts) == 1, "what is malformed is not asked for again"
