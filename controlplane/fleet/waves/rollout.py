"""The state of the fleet's rollout, as all control planes on a database share it. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from broadsheet.v1 import waves_pb2 as pb
from controlplane.catalog.domain import Head, Position
from controlplane.fleet.waves.policy import Cuts, Policy, policy_of
from controlplane.fleet.waves.states import TRANSITIONS, Event, State

FAILED_KEPT_MAX = 50
"""Resources in a baseline. Beyond that, only their number is compared. With ten thousand data
planes, a row is of 6 MB at most."""

HARMS_MAX = 100
"""Harms that are kept. One is enough to halt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """How a data plane was when it was given the target."""

    quarantined: int = 0
    failed: tuple[int, ...] = ()
    """Resources that were FAILED, by the hash of their name; at most FAILED_KEPT_MAX."""
    failed_count: int = 0
    requests: int | None = None
    """That its ingress had answered. None: unknown, so errors are not compared."""
    failures: int = 0
    error_share: float = 0.0
    """Of the requests before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What the target has done to a data plane."""

    data_plane_id: str
    resource: str = ""
    """Resource name; empty: the data plane as a whole."""
    reason: str
    """UPPER_SNAKE."""
    message: str


NOBODY: Mapping[str, Baseline] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How far a snapshot has reached the fleet.

    Invariants: there are a target and its policy exactly outside IDLE; a data plane may have the
    target exactly if it has a baseline; the revision of the target is later than that of `stable`.
    """

    state: State = State.IDLE
    stable: Head
    """The last snapshot that everyone may have."""
    target: Head | None = None
    policy_message: bytes = b""
    """The serialised FleetPolicy that the rollout began with."""
    cuts: Cuts = ()
    wave: int = 0
    """The wave that has begun last, counted from 1; 0: `first`."""
    first: tuple[str, ...] = ()
    """Ids of data planes that get the target before the first wave."""
    given: Mapping[str, Baseline] = field(default_factory=lambda: NOBODY)
    """The data planes that may have the target, by id."""
    excused: frozenset[str] = frozenset()
    """Ids of data planes that an operator has gone on without."""
    hurt: tuple[Harm, ...] = ()
    """Of HALTED."""
    reason: str = ""
    message: str = ""
    update_time: datetime

    @property
    def policy(self) -> Policy:
        """The policy that the rollout began with."""
        return _policy(self.policy_message)

    def moved(self, event: Event, now: datetime, **changes: Any) -> Rollout:
        """The rollout after an event.

        Raises:
            KeyError: The event is illegal in its state.
        """
        return replace(self, state=TRANSITIONS[self.state, event], update_time=now, **changes)


@functools.lru_cache(maxsize=4)
def _policy(message: bytes) -> Policy:
    policy = policy_of(pb.FleetPolicy.FromString(message))
    assert policy is not None, "a rollout has waves"
    return policy


# -- stored form -----------------------------------------------------------------------------------


def to_bytes(rollout: Rollout) -> bytes:
    """The stored form, without the uid of the store, which a restored backup changes."""
    content = {
        "state": rollout.state.value,
        "stable": _head_to_json(rollout.stable),
        "target": _head_to_json(rollout.target) if rollout.target is not None else None,
        "policy": rollout.policy_message.hex(),
        "cuts": rollout.cuts,
        "wave": rollout.wave,
        "first": rollout.first,
        "given": {key: _baseline_to_json(baseline) for key, baseline in rollout.given.items()},
        "excused": sorted(rollout.excused),
        "hurt": [[harm.data_plane_id, harm.resource, harm.reason, harm.message] for harm in rollout.hurt],
        "reason": rollout.reason,
        "message": rollout.message,
        "update_time": rollout.update_time.isoformat(),
    }
    return json.dumps(content, separators=(",", ":")).encode()


def from_bytes(stored: bytes, *, store_uid: str) -> Rollout:
    """The inverse of `to_bytes`, for the store with this uid."""
    content = json.loads(stored)
    target = content["target"]
    return Rollout(
        state=State(content["state"]),
        stable=_head_from_json(content["stable"], store_uid),
        target=_head_from_json(target, store_uid) if target is not None else None,
        policy_message=bytes.fromhex(content["policy"]),
        cuts=tuple(content["cuts"]),
        wave=content["wave"],
        first=tuple(content["first"]),
        given=MappingProxyType({key: _baseline_from_json(values) for key, values in content["given"].items()}),
        excused=frozenset(content["excused"]),
        hurt=tuple(
            Harm(data_plane_id=data_plane_id, resource=resource, reason=reason, message=message)
            for data_plane_id, resource, reason, message in content["hurt"]
        ),
        reason=content["reason"],
        message=content["message"],
        update_time=datetime.fromisoformat(content["update_time"]),
    )


def _head_to_json(head: Head) -> list[Any]:
    # With the time of its commit, so that its signed head is the same as before.
    commit_time = head.commit_time.isoformat() if head.commit_time is not None else None
    return [head.position.revision, head.position.digest.hex(), head.entry_count, commit_time]


def _head_from_json(values: list[Any], store_uid: str) -> Head:
    revision, digest, entry_count, committed = values
    position = Position(store_uid=store_uid, revision=revision, digest=bytes.fromhex(digest))
    commit_time = datetime.fromisoformat(committed) if committed is not None else None
    return Head(position=position, entry_count=entry_count, commit_time=commit_time)


def _baseline_to_json(baseline: Baseline) -> list[Any]:
    return [
        baseline.quarantined,
        baseline.failed,
        baseline.failed_count,
        baseline.requests,
        baseline.failures,
        baseline.error_share,
    ]


def _baseline_from_json(values: list[Any]) -> Baseline:
    quarantined, failed, failed_count, requests, failures, error_share = values
    return Baseline(
        quarantined=quarantined,
        failed=tuple(failed),
        failed_count=failed_count,
        requests=requests,
        failures=failures,
        error_share=error_share,
    )
