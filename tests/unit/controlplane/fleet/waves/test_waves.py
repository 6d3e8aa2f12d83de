"""What a process knows of the rollout, and whom it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from broadsheet.v1 import waves_pb2
from controlplane.errors import Reason, Unavailable
from controlplane.fleet.state import FleetState
from controlplane.fleet.waves import waves as waves_module
from controlplane.fleet.waves.rollout import Baseline, Rollout, to_bytes
from controlplane.fleet.waves.states import State
from controlplane.fleet.waves.waves import Waves
from controlplane.store.fleet.waves import NOTHING, WavesRecord
from tests.unit.controlplane.fleet.waves.waves_world import CANARY, NOW
from tests.unit.controlplane.fleet_world import head, record

POLICY = waves_pb2.FleetPolicy(waves=[CANARY]).SerializeToString()

HALTED = Rollout(
    state=State.HALTED,
    stable=head(5),
    target=head(6),
    policy_message=POLICY,
    cuts=(-1, -1),
    wave=1,
    given={"canary": Baseline()},
    reason="DOOMED",
    message="canary: no",
    update_time=NOW,
)


class Source:
    """A record that tests change, in a database that fails when they say so."""

    def __init__(self) -> None:
        self.record = NOTHING
        self.failures = 0
        self.reads = 0
        self.subscribers: list[Callable[[WavesRecord], None]] = []

    async def get(self) -> WavesRecord:
        self.reads += 1
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise Unavailable(Reason.STORE_UNAVAILABLE, "it is away")
        return self.record

    def subscribe(self, subscriber: Callable[[WavesRecord], None]) -> None:
        self.subscribers.append(subscriber)

    def commit(self, rollout: Rollout, policy: bytes = POLICY) -> None:
        self.record = WavesRecord(version=self.record.version + 1, policy=policy, rollout=to_bytes(rollout))
        for subscriber in self.subscribers:
            subscriber(self.record)


def known(source: Source, *, is_shared: bool = False) -> tuple[FleetState, Waves]:
    state = FleetState(head=head(5), shares_statuses=is_shared)
    for data_plane_id in ("canary", "other"):
        state.remember(record(data_plane_id))
    return state, Waves(state, source, is_shared=is_shared, changed=lambda: None)


def publish(state: FleetState, waves: Waves, revision: int) -> None:
    state.publish(head(revision))
    waves.announce(head(revision))


def test_without_a_policy_everyone_may_have_the_newest() -> None:
    state, waves = known(Source())
    publish(state, waves, 6)
    assert waves.head_for("other") == waves.floor == head(6)
    assert (waves.held("other"), waves.held_count, waves.oldest_in_use) == ("", 0, None)
    assert waves.wave_numbers()("other", {}) == 0


def test_who_was_given_the_target_has_it_and_the_others_are_held_with_the_reason() -> None:
    source = Source()
    state, waves = known(source)
    publish(state, waves, 6)
    source.commit(HALTED)
    assert (waves.head_for("canary"), waves.head_for("other"), waves.floor) == (head(6), head(5), head(5))
    assert waves.held("canary") == ""
    assert waves.held("other") == "held by wave 1 of 2, which is HALTED: DOOMED: canary: no"
    assert (waves.held_count, waves.wave, waves.by_state()["HALTED"], waves.by_state()["IDLE"]) == (1, 1, 1, 0)
    number_of = waves.wave_numbers()
    assert (number_of("canary", {"tier": "canary"}), number_of("other", {})) == (1, 2)
    # Later ones wait for the rollout.
    publish(state, waves, 7)
    assert waves.head_for("canary") == head(6)
    assert waves.held("canary") == "held by wave 1 of 2, which is HALTED: DOOMED: canary: no"
    source.commit(replace(HALTED, state=State.ROLLING))
    assert waves.held("canary") == "held until the rollout of revision 6 ends, whose wave 1 of 2 is ROLLING"


def test_an_older_record_is_ignored() -> None:
    source = Source()
    _, waves = known(source)
    old = replace(source.record, version=1, policy=POLICY, rollout=to_bytes(HALTED))
    source.record = replace(old, version=1)
    source.commit(HALTED)
    for subscriber in source.subscribers:
        subscriber(replace(old, rollout=to_bytes(Rollout(stable=head(1), update_time=NOW))))
    assert waves.rollout is not None
    assert waves.rollout.state is State.HALTED


async def test_a_new_snapshot_on_a_shared_database_waits_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves_module, "RETRY_S", 0.01)
    source = Source()
    state, waves = known(source, is_shared=True)
    source.failures = 2
    told = asyncio.Event()
    waves.listen(told.set)
    publish(state, waves, 6)
    assert waves.head_for("other") == head(5)
    following = asyncio.create_task(waves.follow())
    async with asyncio.timeout(5):
        await told.wait()
    following.cancel()
    assert (waves.head_for("other"), source.reads) == (head(6), 3)


async def test_many_callers_at_once_need_two_reads() -> None:
    source = Source()
    _, waves = known(source, is_shared=True)
    await asyncio.gather(*(waves.refresh() for _ in range(100)))
    assert source.reads <= 2


async def test_the_only_control_plane_of_a_database_reads_once() -> None:
    source = Source()
    _, waves = known(source)
    await waves.refresh()
    await waves.refresh()
    assert source.reads == 1


def test_a_restored_store_keeps_the_rollout_under_its_new_uid() -> None:
    source = Source()
    state, waves = known(source)
    source.commit(HALTED)
    uid = state.head.position.store_uid
    assert waves.rollout is not None
    assert waves.rollout.stable.position.store_uid == uid
    assert b"store_uid" not in source.record.rollout
