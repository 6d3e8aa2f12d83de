"""The RPCs of waves: the policy, and the rollout of a snapshot to the data planes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar

from google.protobuf import message as protobuf_message

from broadsheet.v1 import waves_pb2 as pb
from controlplane.catalog.convert import known_fields, position_to_proto, timestamp_to_proto
from controlplane.catalog.domain import Head
from controlplane.errors import Aborted, FailedPrecondition, Reason
from controlplane.fleet.fleet import Fleet
from controlplane.fleet.waves import machine
from controlplane.fleet.waves.clock import WavesClock
from controlplane.fleet.waves.policy import policy_of
from controlplane.fleet.waves.rollout import Harm, Rollout, from_bytes, to_bytes
from controlplane.fleet.waves.states import State
from controlplane.rpc.handlers import idempotency
from controlplane.store.fleet.waves import WavesRecord
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol.names import data_plane_name
from protocol.validation import FieldViolation, shorten

POLICY_NAME = "fleetPolicy"
ROLLOUT_NAME = "fleetRollout"

NAMES_MAX = 100
"""Data planes that an answer names."""

R = TypeVar("R", bound=protobuf_message.Message)

_STATES: Mapping[State, pb.FleetRollout.State.ValueType] = MappingProxyType(
    {
        State.IDLE: pb.FleetRollout.STATE_IDLE,
        State.ROLLING: pb.FleetRollout.STATE_ROLLING,
        State.SOAKING: pb.FleetRollout.STATE_SOAKING,
        State.HALTED: pb.FleetRollout.STATE_HALTED,
    }
)


class WavesHandler:
    """Reads and sets the policy, and controls the rollout. `controlplane.upkeep.waves` moves it."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        """
        Args:
            store: Where the policy and the rollout are.
            fleet: What data planes have reported.
        """
        self._store = store
        self._fleet = fleet

    async def get_fleet_policy(self, request: pb.GetFleetPolicyRequest) -> pb.GetFleetPolicyResponse:
        return pb.GetFleetPolicyResponse(policy=_policy((await self._store.waves.get()).policy))

    async def set_fleet_policy(self, request: pb.SetFleetPolicyRequest) -> pb.SetFleetPolicyResponse:
        policy_of(request.policy)

        async def work(transaction: WriteTransaction) -> pb.SetFleetPolicyResponse:
            record = await transaction.waves.get()
            _check_etag(request.etag, record)
            new = known_fields(request.policy)
            new.name = POLICY_NAME
            new.ClearField("etag")
            new.update_time.CopyFrom(timestamp_to_proto(transaction.stamp.now))
            rollout = _rollout(record, transaction.head, transaction.stamp.now)
            if rollout.state is State.IDLE and not _has_waves(record):
                # Without a policy, everyone may have the newest snapshot.
                rollout = replace(rollout, stable=transaction.head, update_time=transaction.stamp.now)
            policy = new.SerializeToString(deterministic=True)
            await transaction.waves.put(replace(record, policy=policy, rollout=to_bytes(rollout)), is_logged=True)
            return pb.SetFleetPolicyResponse(policy=_policy(policy))

        return await idempotency.commit(self._store, request, pb.SetFleetPolicyResponse, work, resource=POLICY_NAME)

    async def get_fleet_rollout(self, request: pb.GetFleetRolloutRequest) -> pb.GetFleetRolloutResponse:
        await self._fleet.database.catch_up()
        await self._fleet.waves.refresh()
        newest = self._fleet.waves.newest
        rollout = self._fleet.waves.rollout
        if rollout is None:
            message = pb.FleetRollout(
                name=ROLLOUT_NAME,
                state=pb.FleetRollout.STATE_IDLE,
                stable=position_to_proto(newest.position),
                newest_revision=newest.position.revision,
            )
            return pb.GetFleetRolloutResponse(rollout=message)
        if rollout.state is State.IDLE and self._fleet.waves.policy is None:
            rollout = replace(rollout, stable=newest)
        return pb.GetFleetRolloutResponse(rollout=self._message(rollout, newest))

    async def halt_fleet_rollout(self, request: pb.HaltFleetRolloutRequest) -> pb.HaltFleetRolloutResponse:
        def halt(rollout: Rollout, transaction: WriteTransaction, record: WavesRecord) -> machine.Step:
            return machine.halted_by_operator(rollout, request.reason, transaction.stamp.now)

        return await self._control(request, pb.HaltFleetRolloutResponse, halt)

    async def resume_fleet_rollout(self, request: pb.ResumeFleetRolloutRequest) -> pb.ResumeFleetRolloutResponse:
        def resume(rollout: Rollout, transaction: WriteTransaction, record: WavesRecord) -> machine.Step:
            if not request.newest:
                return machine.resumed(rollout, transaction.stamp.now)
            if rollout.state is not State.HALTED:
                raise KeyError(rollout.state)
            return machine.restarted(rollout, self._situation(transaction, record))

        return await self._control(request, pb.ResumeFleetRolloutResponse, resume)

    async def force_fleet_rollout(self, request: pb.ForceFleetRolloutRequest) -> pb.ForceFleetRolloutResponse:
        def force(rollout: Rollout, transaction: WriteTransaction, record: WavesRecord) -> machine.Step:
            return machine.forced(rollout, transaction.head, transaction.stamp.now)

        return await self._control(request, pb.ForceFleetRolloutResponse, force)

    async def _control(
        self,
        request: protobuf_message.Message,
        response: type[R],
        move: Callable[[Rollout, WriteTransaction, WavesRecord], machine.Step],
    ) -> R:
        async def work(transaction: WriteTransaction) -> R:
            record = await transaction.waves.get()
            rollout = _rollout(record, transaction.head, transaction.stamp.now)
            try:
                step = move(rollout, transaction, record)
            except KeyError:
                raise FailedPrecondition(
                    Reason.ROLLOUT_NOT_IN_STATE,
                    f"the rollout of the fleet is {rollout.state.value}; look at it: broadsheet fleet rollout",
                    metadata={"state": rollout.state.value},
                ) from None
            await transaction.waves.put(replace(record, rollout=to_bytes(step.rollout)), is_logged=True)
            return response(rollout=self._message(step.rollout, transaction.head))

        return await idempotency.commit(self._store, request, response, work, resource=ROLLOUT_NAME)

    def _situation(self, transaction: WriteTransaction, record: WavesRecord) -> machine.Situation:
        return machine.Situation(
            newest=transaction.head,
            policy_message=record.policy,
            policy=policy_of(pb.FleetPolicy.FromString(record.policy)),
            rollback_revision=record.rollback_revision,
            seen=self._fleet.waves.seen(),
            now=transaction.stamp.now,
            now_s=0.0,
            clock=WavesClock(),
        )

    def _message(self, rollout: Rollout, newest: Head) -> pb.FleetRollout:
        waiting = machine.waiting_for(rollout, self._fleet.waves.seen())
        target = rollout.target
        reached = target if target is not None else rollout.stable
        return pb.FleetRollout(
            name=ROLLOUT_NAME,
            state=_STATES[rollout.state],
            stable=position_to_proto(rollout.stable.position),
            target=position_to_proto(target.position) if target is not None else None,
            wave=rollout.wave,
            wave_count=len(rollout.policy.waves) if target is not None else 0,
            update_time=timestamp_to_proto(rollout.update_time),
            reason=rollout.reason,
            message=rollout.message,
            hurt=[_harm(harm) for harm in rollout.hurt],
            waiting_for=[data_plane_name(data_plane_id) for data_plane_id in waiting[:NAMES_MAX]],
            waiting_count=len(waiting),
            excused=[data_plane_name(data_plane_id) for data_plane_id in sorted(rollout.excused)[:NAMES_MAX]],
            held_count=sum(data_plane_id not in rollout.given for data_plane_id in self._fleet.state.ids)
            if target is not None
            else 0,
            newest_revision=max(newest.position.revision, reached.position.revision),
        )


def _rollout(record: WavesRecord, head: Head, now: datetime) -> Rollout:
    """The stored rollout, or one that has yet to begin."""
    if not record.rollout:
        return Rollout(stable=head, update_time=now)
    return from_bytes(record.rollout, store_uid=head.position.store_uid)


def _has_waves(record: WavesRecord) -> bool:
    return bool(pb.FleetPolicy.FromString(record.policy).waves)


def _policy(stored: bytes) -> pb.FleetPolicy:
    policy = pb.FleetPolicy.FromString(stored)
    policy.name = POLICY_NAME
    policy.etag = _etag(stored)
    return policy


def _etag(stored: bytes) -> str:
    return f'W/"{hashlib.sha256(stored).hexdigest()[:16]}"'


def _check_etag(given: str, record: WavesRecord) -> None:
    current = _etag(record.policy)
    if not given or given == current:
        return
    raise Aborted(
        Reason.ETAG_MISMATCH,
        f"etag: got {shorten(given)}, and {POLICY_NAME} has {current} by now; read it again, and decide whether your "
        "change still holds",
        violations=(FieldViolation(field="etag", description=f"got {shorten(given)}; {POLICY_NAME} has {current}"),),
        metadata={"got": given, "current": current},
    )


def _harm(harm: Harm) -> pb.Harm:
    return pb.Harm(
        data_plane=data_plane_name(harm.data_plane_id),
        resource=harm.resource,
        reason=harm.reason,
        message=harm.message,
    )
