"""A revoked API key stays revoked, whatever happens to the agent, the relay and the disk.

The agent's disk, its keeper, the relay and the ingress's view are the real ones, in this process.
The control plane is away all the time. `docs/fault-matrix.md` shows the cases as a table.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import json
import os
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dataplane.agent.ingress_revocations import IngressRevocations
from dataplane.agent.ingress_swap import SwapTiming
from dataplane.agent.relayed_snapshot import SnapshotPublisher, find_snapshot
from dataplane.ingress.access.api_keys import find_key
from dataplane.ingress.relayed_view import WATCHED, RelayedView
from dataplane.openai import errors as openai_errors
from dataplane.relay.relay import Watcher
from dataplane.relay.snapshots import read_snapshot
from dataplane.relay.topics import Key, Role, Topic
from dataplane.settings import Settings
from dataplane.snapshot.activation import Activation, View
from dataplane.snapshot.revocations.revoked_keys import RevocationsPosition
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.events import Accepted
from dataplane.sync.keeper import SnapshotKeeper
from dataplane.sync.stored.booting import CRASHES_MAX
from tests.disk import become_read_only, change, verify
from tests.raw import POLICY, model, position, raws
from tests.revoking import batch
from tests.unit.dataplane.agent.serve_world import ServeWorld
from tests.unit.dataplane.relay.relay_world import RelayWorld
from tests.views import api_key

KEY = "bs-" + "k" * 43
RULES = "rules"


def committed(revision: int, *, revoked: bool) -> Snapshot:
    entries = raws(model("a"), api_key("stolen", KEY, revoked=revoked), api_key("other", "bs-" + "o" * 43))
    made = verify(position(entries, revision), entries)
    assert isinstance(made, Snapshot)
    return made


GRANTED, REVOKED = committed(1, revoked=False), committed(2, revoked=True)


class Ingress:
    """What an ingress replica decides by."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        relay = cluster.world.relay(Role.INGRESS, name)
        self._watcher: Watcher = relay.watcher(WATCHED)
        self._revocations: Watcher = relay.watcher([Topic.REVOCATIONS])
        self._revoked = set[str]()
        self._relayed = RelayedView(POLICY, RULES, partial(read_snapshot, relay))
        self._view: View | None = None

    async def follow(self) -> Ingress:
        """Take over what is in the relay now."""
        async with asyncio.timeout(10):
            self._view = await self._relayed.take(await self._watcher.next()) or self._view
        return self

    async def follow_revocations(self) -> Ingress:
        """Refuse what the relay says is revoked now."""
        async with asyncio.timeout(10):
            pieces = (await self._revocations.next()).values(Topic.REVOCATIONS)
        pieces.pop("", None)
        self._revoked.update(chain.from_iterable(pieces.values()))
        return self

    def lets_in(self, key: str) -> bool:
        assert self._view is not None, "it has no snapshot"
        try:
            find_key(self._view.snapshot.api_keys, key, now=0.0, revoked=self._revoked)
        except openai_errors.ApiKeyInvalid:
            return False
        return True


class Cluster:
    """A data plane whose agent, relay and ingress replicas die as a test says."""

    def __init__(self, directory: Path) -> None:
        self.world = RelayWorld()
        self._directory = directory
        self._agents = 0
        self._running: asyncio.Task[None] | None = None

    async def start_agent(self) -> SnapshotKeeper:
        self._agents += 1
        self._relay = relay = self.world.relay(Role.AGENT, "agent", incarnation=self._agents)
        publisher = SnapshotPublisher(relay, rules=RULES)
        keeper: SnapshotKeeper

        async def activate(snapshot: Snapshot) -> None:
            await relay.put({Key(Topic.ACTIVATION): Activation(sequence=1, models={})})
            await publisher.put(snapshot, withdrawn=keeper.withdrawn)

        settings = Settings(data_dir=self._directory, controlplane="127.0.0.1:1")
        ingress = IngressRevocations(relay, positions=dict, serve=ServeWorld(), timing=SwapTiming())
        keeper = SnapshotKeeper(
            settings, instance_uid=f"{self._agents}", policy=POLICY, activate=activate, ingress=ingress
        )
        await keeper.load(await find_snapshot(relay))
        self._running = asyncio.create_task(keeper.run())
        await asyncio.sleep(0)
        return keeper

    async def report(self) -> None:
        """Put something into the relay, as the agent does all the time.

        It finds the relay restarted then, and puts everything again.
        """
        await self._relay.put({Key(Topic.ACTIVATION): Activation(sequence=2, models={})})

    async def kill_agent(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])

    async def ingress(self, name: str) -> Ingress:
        return await (await Ingress(self, name).follow_revocations()).follow()


class Disk(enum.Enum):
    """The disk from before the revocation on."""

    WRITABLE = "writable"
    FULL = "full"
    READ_ONLY = "read-only"


class Lost(enum.Enum):
    """What dies after the revocation was acknowledged."""

    AGENT = "agent"
    RELAY = "relay"
    AGENT_AND_RELAY = "agent and relay"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def wear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Disk], None]:
    """Make the disk what it is said to be."""

    def become(disk: Disk) -> None:
        if disk is Disk.READ_ONLY:
            become_read_only(monkeypatch)
            monkeypatch.setattr(os, "open", read_only(os.open, tmp_path))
        elif disk is Disk.FULL:
            for flush in ("fsync", "fdatasync"):
                reserve = tmp_path / "snapshots" / "RESERVE"
                monkeypatch.setattr(os, flush, full_beside(getattr(os, flush), reserve))

    return become


def read_only(call: Callable[..., int], directory: Path) -> Callable[..., int]:
    def opened(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if directory in Path(path).parents and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return call(path, flags, *arguments, **named)

    return opened


def full_beside(call: Callable[[int], None], reserve: Path) -> Callable[[int], None]:
    """A disk on which there is room only when the reserve is given up."""

    def flushed(descriptor: int) -> None:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        call(descriptor)

    return flushed


@pytest.mark.parametrize("lost", Lost, ids=lambda lost: lost.value)
@pytest.mark.parametrize("disk", Disk, ids=lambda disk: disk.value)
@pytest.mark.parametrize("as_change", [False, True], ids=["whole", "change"])
async def test_revoked_key_stays_revoked(
    cluster: Cluster, wear: Callable[[Disk], None], tmp_path: Path, as_change: bool, disk: Disk, lost: Lost
) -> None:
    agent = await cluster.start_agent()
    assert isinstance(await agent.on_snapshot(GRANTED.position, GRANTED.entries), Accepted)
    living = await cluster.ingress("living")
    assert living.lets_in(KEY)

    wear(disk)
    if as_change:
        acknowledged = await agent.on_change(REVOKED.position, change(GRANTED, REVOKED))
    else:
        acknowledged = await agent.on_snapshot(REVOKED.position, REVOKED.entries)
    assert isinstance(acknowledged, Accepted)
    assert bool(acknowledged.warning) == (disk is Disk.READ_ONLY), "what is not on disk is said"
    assert not (await living.follow()).lets_in(KEY)

    if lost is not Lost.RELAY:
        await cluster.kill_agent()
    if lost is not Lost.AGENT:
        cluster.world.restart()
    if lost is not Lost.RELAY:
        agent = await cluster.start_agent()
    else:
        await cluster.report()

    await living.follow()
    assert not living.lets_in(KEY), "an ingress replica never goes back by itself"
    new = await cluster.ingress("new")
    # Nothing can be kept on a read-only disk. It was said with the acknowledgement.
    only_memory_had_it = disk is Disk.READ_ONLY and lost is Lost.AGENT_AND_RELAY
    assert new.lets_in(KEY) == only_memory_had_it
    await cluster.kill_agent()


@pytest.mark.parametrize("lost", Lost, ids=lambda lost: lost.value)
@pytest.mark.parametrize("disk", Disk, ids=lambda disk: disk.value)
async def test_key_revoked_beside_snapshots_stays_revoked_whatever_is_served(
    cluster: Cluster, wear: Callable[[Disk], None], tmp_path: Path, disk: Disk, lost: Lost
) -> None:
    """The snapshot that is served, and booted, lets the key in all the time."""
    agent = await cluster.start_agent()
    assert isinstance(await agent.on_snapshot(GRANTED.position, GRANTED.entries), Accepted)
    living = await cluster.ingress("living")
    assert living.lets_in(KEY)

    wear(disk)
    assert await agent._revocations.take(batch("uid-stolen"))
    assert bool(agent._revocations.warning) == (disk is Disk.READ_ONLY), "what is not on disk is said"
    assert not (await living.follow_revocations()).lets_in(KEY)
    assert living.lets_in("bs-" + "o" * 43), "others are let in"

    if lost is not Lost.RELAY:
        await cluster.kill_agent()
    if lost is not Lost.AGENT:
        cluster.world.restart()
    if lost is not Lost.RELAY:
        agent = await cluster.start_agent()
    else:
        await cluster.report()

    assert not (await living.follow_revocations()).lets_in(KEY), "an ingress replica never forgets"
    new = await cluster.ingress("new")
    # Nothing can be kept on a read-only disk. The next stream brings it at once.
    only_memory_had_it = disk is Disk.READ_ONLY and lost is Lost.AGENT_AND_RELAY
    assert new.lets_in(KEY) == only_memory_had_it
    assert agent.snapshot is not None
    assert agent.snapshot.position == GRANTED.position
    if only_memory_had_it:
        assert await agent._revocations.take(batch("uid-stolen"))
        assert not (await new.follow_revocations()).lets_in(KEY)
    await cluster.kill_agent()


async def test_key_revoked_beside_snapshots_stays_revoked_when_the_snapshot_before_is_booted(
    cluster: Cluster, tmp_path: Path
) -> None:
    """PREVIOUS lets the key in. CURRENT, which revokes it, crashes and is withdrawn."""
    agent = await cluster.start_agent()
    await agent.on_snapshot(GRANTED.position, GRANTED.entries)
    await agent._revocations.take(batch("uid-stolen"))
    await agent.on_snapshot(REVOKED.position, REVOKED.entries)
    await cluster.kill_agent()
    snapshots = tmp_path / "snapshots"
    crashed = {"file": (snapshots / "CURRENT").read_text().strip(), "crashes": CRASHES_MAX - 1}
    (snapshots / "PROBATION").write_text(json.dumps(crashed))
    cluster.world.restart()
    agent = await cluster.start_agent()
    assert agent.snapshot is not None
    assert agent.snapshot.position == GRANTED.position
    assert not (await cluster.ingress("new")).lets_in(KEY)
    await cluster.kill_agent()


async def test_a_store_restored_from_a_backup_does_not_bring_a_key_back(cluster: Cluster) -> None:
    """The backup was made before the revocation: its snapshots let the key in, and its own
    revocations begin again."""
    agent = await cluster.start_agent()
    await agent.on_snapshot(REVOKED.position, REVOKED.entries)
    await agent._revocations.take(batch("uid-old", "uid-stolen", store_uid="lost"))
    await agent._revocations.take(batch("uid-old", store_uid="restored"))
    await cluster.kill_agent()
    cluster.world.restart()
    agent = await cluster.start_agent()
    assert agent._revocations.position == RevocationsPosition(store_uid="restored", sequence=1)
    entries = GRANTED.entries
    restored = verify(position(entries, 9, store_uid="restored"), entries)
    assert isinstance(restored, Snapshot)
    agent.snapshot = None  # an operator allows the other store
    assert isinstance(await agent.on_snapshot(restored.position, restored.entries), Accepted)
    assert not (await cluster.ingress("new")).lets_in(KEY)
    await cluster.kill_agent()
