"""The fleet's rollout as a state machine. Pure.

    IDLE ──a newer snapshot──▶ ROLLING wave 1 ◀──not well── SOAKING ──the last wave──▶ IDLE
                                  │      └──────well──────────▶ │
                                  │                              └──next wave──▶ ROLLING
                        hurt, too slow, operator
                                  ▼
                               HALTED ──resume──▶ ROLLING

A data plane may have the target once it has a baseline (`Rollout.given`), which is stored before
the target is sent. A wave is well when enough of its data planes are connected and serve the
target, and none is hurt. One that is silent, disconnected or never seen is not well: the wave waits
for it, and halts in the end. `states.py` has the transitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from controlplane.catalog.domain import Head
from controlplane.fleet.waves.clock import WavesClock
from controlplane.fleet.waves.health import Seen, baseline_of, harm_of, is_well
from controlplane.fleet.waves.policy import Policy, cuts_of, wave_of
from controlplane.fleet.waves.rollout import HARMS_MAX, NOBODY, Harm, Rollout
from controlplane.fleet.waves.states import Event, State

WAVE_TIMEOUT = "WAVE_TIMEOUT"
OPERATOR = "OPERATOR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a rollout is judged by."""

    newest: Head
    policy_message: bytes
    """The serialised FleetPolicy that is set now; empty: there is none."""
    policy: Policy | None
    rollback_revision: int
    """The last catalog revision that rolled the catalog back; 0: none did."""
    seen: Sequence[Seen]
    """All data planes that are known."""
    now: datetime
    now_s: float
    """Seconds of the clock that `clock` goes by."""
    clock: WavesClock


class Step(NamedTuple):
    """A move of the rollout."""

    event: Event
    rollout: Rollout
    """After it."""


def next_step(rollout: Rollout, situation: Situation) -> Step | None:
    """The move that is due; None: none is."""
    target = rollout.target
    if rollout.state is State.IDLE or target is None:
        return _begin(rollout, situation)
    newest = situation.newest.position.revision
    if target.position.revision < situation.rollback_revision <= newest:
        return restarted(rollout, situation, first=rollout.given)
    if rollout.state is State.HALTED:
        return None
    judged = _judge(rollout, target, situation)
    if judged.hurt:
        return _halted(rollout, situation, judged.hurt)
    given = _to_give(rollout, judged, situation)
    if given:
        changed = MappingProxyType(
            {**rollout.given, **{seen.data_plane_id: _baseline(seen, situation) for seen in given}}
        )
        return Step(Event.GIVE, rollout.moved(Event.GIVE, rollout.update_time, given=changed))
    return _judge_wave(rollout, target, judged, situation)


# -- what an operator does -------------------------------------------------------------------------


def halted_by_operator(rollout: Rollout, reason: str, now: datetime) -> Step:
    """Halt a rollout that is under way.

    Raises:
        KeyError: It is not under way, or halted already.
    """
    message = reason or "an operator has halted it"
    return Step(Event.HALT, rollout.moved(Event.HALT, now, reason=OPERATOR, message=message))


def resumed(rollout: Rollout, now: datetime) -> Step:
    """Go on with the same target, without the data planes that were hurt.

    Raises:
        KeyError: It is not halted.
    """
    excused = rollout.excused | {harm.data_plane_id for harm in rollout.hurt}
    return Step(Event.RESUME, rollout.moved(Event.RESUME, now, excused=excused, hurt=(), reason="", message=""))


def restarted(rollout: Rollout, situation: Situation, *, first: Mapping[str, object] | None = None) -> Step:
    """Begin at the first wave again, with the newest snapshot.

    Args:
        rollout: Is under way, or halted.
        situation: Has the newest snapshot and the policy, without which that of the rollout stays.
        first: Ids of the data planes that get it before the first wave, if they are connected. By
            default, those that were hurt.

    Raises:
        KeyError: There is no rollout.
    """
    ids = first.keys() if first is not None else {harm.data_plane_id for harm in rollout.hurt}
    connected = tuple(
        sorted(seen.data_plane_id for seen in situation.seen if seen.connected and seen.data_plane_id in ids)
    )
    policy_message, policy = situation.policy_message, situation.policy
    if policy is None:
        policy_message, policy = rollout.policy_message, rollout.policy
    moved = rollout.moved(
        Event.RESTART,
        situation.now,
        target=situation.newest,
        policy_message=policy_message,
        cuts=_cuts(policy, situation.seen),
        wave=0 if connected else 1,
        first=connected,
        **_FRESH,
    )
    return Step(Event.RESTART, moved)


def forced(rollout: Rollout, newest: Head, now: datetime) -> Step:
    """Give the newest snapshot to everyone."""
    return Step(Event.FORCE, _stable(rollout, Event.FORCE, newest, now))


_FRESH: Mapping[str, object] = MappingProxyType(
    {"given": NOBODY, "excused": frozenset[str](), "hurt": (), "reason": "", "message": ""}
)


# -- questions -------------------------------------------------------------------------------------


def waves_of(rollout: Rollout, seen: Sequence[Seen]) -> Mapping[str, int]:
    """The wave of each data plane, by id."""
    waves, first = rollout.policy.waves, frozenset(rollout.first)
    return {
        item.data_plane_id: 0
        if item.data_plane_id in first
        else wave_of(item.data_plane_id, item.labels, waves, rollout.cuts)
        for item in seen
    }


def waiting_for(rollout: Rollout, seen: Sequence[Seen]) -> Sequence[str]:
    """Ids of the data planes of the wave that has begun last and that are not well."""
    if rollout.target is None:
        return ()
    waves, position = waves_of(rollout, seen), rollout.target.position
    members = _members(rollout, seen, waves)
    return [item.data_plane_id for item in members if not is_well(item, position)]


# -- moves -----------------------------------------------------------------------------------------


class _Judged(NamedTuple):
    waves: Mapping[str, int]
    hurt: tuple[Harm, ...]


def _begin(rollout: Rollout, situation: Situation) -> Step | None:
    newest = situation.newest
    if situation.policy is None or newest.position.revision <= rollout.stable.position.revision:
        return None
    begun = rollout.moved(
        Event.BEGIN,
        situation.now,
        target=newest,
        policy_message=situation.policy_message,
        cuts=_cuts(situation.policy, situation.seen),
        wave=1,
        first=(),
        **_FRESH,
    )
    return Step(Event.BEGIN, begun)


def _judge(rollout: Rollout, target: Head, situation: Situation) -> _Judged:
    limits, clock, now_s = rollout.policy.limits, situation.clock, situation.now_s
    hurt = []
    for seen in situation.seen:
        baseline = rollout.given.get(seen.data_plane_id)
        if baseline is None or not seen.votes or seen.data_plane_id in rollout.excused:
            continue
        harm = harm_of(seen, target.position, baseline, limits, clock.gone_s(seen.data_plane_id, now_s))
        if harm is not None:
            hurt.append(harm)
    return _Judged(waves_of(rollout, situation.seen), tuple(hurt[:HARMS_MAX]))


def _to_give(rollout: Rollout, judged: _Judged, situation: Situation) -> Sequence[Seen]:
    """Data planes of waves that have begun, which have yet to be given the target."""
    return [
        seen
        for seen in situation.seen
        if seen.has_reported
        and seen.connected
        and seen.data_plane_id not in rollout.given
        and judged.waves[seen.data_plane_id] <= rollout.wave
    ]


def _baseline(seen: Seen, situation: Situation) -> object:
    return baseline_of(seen, situation.clock.traffic_before(seen.data_plane_id))


def _judge_wave(rollout: Rollout, target: Head, judged: _Judged, situation: Situation) -> Step | None:
    members = _members(rollout, situation.seen, judged.waves)
    well = sum(is_well(seen, target.position) and seen.data_plane_id in rollout.given for seen in members)
    policy = rollout.policy
    wave = policy.waves[max(rollout.wave - 1, 0)]
    needed = wave.min_healthy_percent if rollout.wave else 100
    is_nobody = rollout.wave > 0 and bool(wave.labels) and not _has_voter(wave.labels, situation.seen)
    if well * 100 < needed * len(members) or is_nobody:
        if rollout.state is State.SOAKING:
            return Step(Event.UNWELL, rollout.moved(Event.UNWELL, situation.now))
        return _timed_out(rollout, members, target, wave.timeout_s, situation)
    if rollout.state is State.ROLLING:
        return Step(Event.WELL, rollout.moved(Event.WELL, situation.now))
    if rollout.wave and situation.clock.soak_s(situation.now_s) < wave.soak_s:
        return None
    if rollout.wave < len(policy.waves):
        return Step(Event.NEXT, rollout.moved(Event.NEXT, situation.now, wave=rollout.wave + 1))
    return Step(Event.COMPLETE, _stable(rollout, Event.COMPLETE, target, situation.now))


def _timed_out(
    rollout: Rollout, members: Sequence[Seen], target: Head, timeout_s: float, situation: Situation
) -> Step | None:
    if situation.clock.wave_s(situation.now_s) < timeout_s:
        return None
    waiting = [seen for seen in members if not is_well(seen, target.position)]
    names = ", ".join(_described(seen) for seen in waiting[:5]) or "a data plane that has its labels and votes"
    more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
    message = f"wave {rollout.wave} has waited for more than {timeout_s:g} s for {names}{more}"
    moved = rollout.moved(Event.HALT, situation.now, reason=WAVE_TIMEOUT, message=message)
    return Step(Event.HALT, moved)


def _halted(rollout: Rollout, situation: Situation, hurt: tuple[Harm, ...]) -> Step:
    first = hurt[0]
    resource = f", {first.resource}" if first.resource else ""
    others = f" (and {len(hurt) - 1} more)" if len(hurt) > 1 else ""
    message = f"{first.data_plane_id}{resource}: {first.message}{others}"
    moved = rollout.moved(Event.HALT, situation.now, hurt=hurt, reason=first.reason, message=message)
    return Step(Event.HALT, moved)


def _stable(rollout: Rollout, event: Event, stable: Head, now: datetime) -> Rollout:
    return rollout.moved(
        event, now, stable=stable, target=None, policy_message=b"", cuts=(), wave=0, first=(), **_FRESH
    )


def _members(rollout: Rollout, seen: Sequence[Seen], waves: Mapping[str, int]) -> Sequence[Seen]:
    """The data planes by which the wave that has begun last is judged."""
    return [
        item
        for item in seen
        if item.votes and waves[item.data_plane_id] == rollout.wave and item.data_plane_id not in rollout.excused
    ]


def _has_voter(labels: Mapping[str, str], seen: Sequence[Seen]) -> bool:
    return any(item.votes and labels.items() <= item.labels.items() for item in seen)


def _cuts(policy: Policy, seen: Sequence[Seen]) -> tuple[int, ...]:
    return cuts_of(policy, ((item.data_plane_id, item.labels) for item in seen if item.votes))


def _described(seen: Seen) -> str:
    if not seen.connected:
        return f"{seen.data_plane_id} (not connected)"
    serving = f"serves {seen.serving.revision}" if seen.serving is not None else "serves nothing"
    return f"{seen.data_plane_id} ({serving})"
