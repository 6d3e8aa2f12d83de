"""Waves: the record in the database, and the real upkeep that moves the rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Protocol

from broadsheet.v1 import waves_pb2 as pb
from controlplane.catalog.domain import DataPlaneRecord
from controlplane.fleet.waves import machine
from controlplane.fleet.waves.rollout import Rollout, from_bytes, to_bytes
from controlplane.fleet.waves.states import State
from controlplane.store.fleet.waves import NOTHING, WavesRecord
from tests.simulation.parts.store import Store

CANARY = {"tier": "canary"}
"""Labels of the data plane that the first wave selects."""

SET_POLICY = "SetFleetPolicy"

Publish = Callable[[WavesRecord], None]


@dataclass(slots=True)
class WavesTable:
    """The record, shared by the control planes of a store."""

    store: Store
    record: WavesRecord = NOTHING
    history: dict[int, WavesRecord] = field(default_factory=dict)
    """As it was when each catalog revision was the newest, for backups."""

    @property
    def rollout(self) -> Rollout | None:
        """What the record says; None: nothing yet."""
        record = self.record
        return from_bytes(record.rollout, store_uid=self.store.uid) if record.rollout else None

    @property
    def has_policy(self) -> bool:
        """Whether there are waves."""
        return bool(pb.FleetPolicy.FromString(self.record.policy).waves)

    def put(self, record: WavesRecord) -> WavesRecord:
        """Write a record that was made from the one that is there."""
        self.record = replace(record, version=self.record.version + 1)
        self.history[self.store.head.position.revision] = self.record
        return self.record

    def restored(self, store: Store) -> WavesTable:
        """The table in a backup of which `store` was made."""
        revision = store.head.position.revision
        known = [at for at in self.history if at <= revision]
        return WavesTable(store, self.history[max(known)] if known else NOTHING)


class Told(Protocol):
    """Who is told of moves."""

    def rollout_moved(self, method: str, table: WavesTable) -> None: ...


class WavesStore:
    """The part of the store that one control plane uses: a source of records, and writes."""

    def __init__(self, table: WavesTable, told: Told) -> None:
        self._table = table
        self._told = told
        self._subscribers: list[Publish] = []
        self.data_planes = SimpleNamespace(list=self._list_data_planes)

    async def get(self) -> WavesRecord:
        self._table.store.check()
        return self._table.record

    def subscribe(self, subscriber: Publish) -> None:
        self._subscribers.append(subscriber)

    async def write(self, work: Callable[[Any], Any], *, method: str, resource: str) -> bool:
        """Do `work` in a transaction, as the store does."""
        self._table.store.check()
        written: list[WavesRecord] = []

        async def put(record: WavesRecord, *, is_logged: bool) -> WavesRecord:
            written.append(self._table.put(record))
            return written[-1]

        made: bool = await work(SimpleNamespace(waves=SimpleNamespace(get=self.get, put=put)))
        for record in written:
            self.publish(record, method)
        return made

    def publish(self, record: WavesRecord, method: str) -> None:
        """This control plane has committed a record."""
        self._told.rollout_moved(method, self._table)
        for subscriber in self._subscribers:
            subscriber(record)

    async def _list_data_planes(self, *, after_id: str, limit: int) -> Sequence[DataPlaneRecord]:
        self._table.store.check()
        return [record for known_id, record in sorted(self._table.store.records.items()) if known_id > after_id][:limit]

    # -- what operators do, as in `controlplane.rpc.handlers.waves` --------------------------------

    def set_policy(self, *, soak_s: int, now: datetime) -> None:
        """Two waves: the canary, then everyone else."""
        wave = pb.Wave(labels=pb.LabelSelector(labels=CANARY))
        wave.soak.FromSeconds(soak_s)
        wave.timeout.FromSeconds(120)
        self._set(pb.FleetPolicy(waves=[wave]), now)

    def clear_policy(self, now: datetime) -> None:
        """No waves."""
        self._set(pb.FleetPolicy(), now)

    def _set(self, policy: pb.FleetPolicy, now: datetime) -> None:
        record, rollout = self._table.record, self._rollout(now)
        had_waves = bool(pb.FleetPolicy.FromString(record.policy).waves)
        if rollout.state is State.IDLE and not had_waves:
            rollout = replace(rollout, stable=self._table.store.head, update_time=now)
        changed = replace(record, policy=policy.SerializeToString(deterministic=True), rollout=to_bytes(rollout))
        self.publish(self._table.put(changed), SET_POLICY)

    def operate(self, kind: str, now: datetime) -> None:
        """Halt, resume or force. Nothing happens where that is illegal."""
        rollout = self._rollout(now)
        try:
            if kind == "halt":
                step = machine.halted_by_operator(rollout, "simulated", now)
            elif kind == "resume":
                step = machine.resumed(rollout, now)
            else:
                step = machine.forced(rollout, self._table.store.head, now)
        except KeyError:
            return
        changed = replace(self._table.record, rollout=to_bytes(step.rollout))
        self.publish(self._table.put(changed), step.event.value)

    def _rollout(self, now: datetime) -> Rollout:
        return self._table.rollout or Rollout(stable=self._table.store.head, update_time=now)
