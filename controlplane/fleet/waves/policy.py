"""A fleet policy: its waves with all defaults filled in, and which data plane is in which. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from broadsheet.v1 import waves_pb2 as pb
from controlplane.errors import InvalidArgument

TIMEOUT_DEFAULT_S = 1800.0
ERROR_PERCENT_DEFAULT = 1.0
REQUESTS_MIN_DEFAULT = 100
DISCONNECTED_DEFAULT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Some data planes, and when they are well with a snapshot."""

    percent: int | None = None
    """A share of the data planes that vote. None: it is chosen in another way."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those that have all of these. Empty: it is chosen in another way."""
    soak_s: float = 0.0
    timeout_s: float = TIMEOUT_DEFAULT_S
    min_healthy_percent: int = 100

    @property
    def is_everyone_else(self) -> bool:
        """Whether it takes all that no wave before it has."""
        return self.percent is None and not self.labels

    def has_labels_of(self, labels: Mapping[str, str]) -> bool:
        """Whether a data plane with `labels` is chosen by its labels."""
        return bool(self.labels) and self.labels.items() <= labels.items()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """How much worse than at the begin of its wave a data plane may become."""

    quarantined: int = 0
    failed: int = 0
    error_percent: float = ERROR_PERCENT_DEFAULT
    requests_min: int = REQUESTS_MIN_DEFAULT
    disconnected_s: float = DISCONNECTED_DEFAULT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The waves, the last of which is everyone else, and their limits."""

    waves: tuple[Wave, ...]
    limits: HealthLimits = HealthLimits()


def policy_of(message: pb.FleetPolicy) -> Policy | None:
    """The policy that a message states; None: it has no waves.

    Raises:
        InvalidArgument: A wave before the last one selects everyone else.
    """
    if not message.waves:
        return None
    waves = [_wave(wave) for wave in message.waves]
    for number, wave in enumerate(waves[:-1]):
        if wave.is_everyone_else:
            raise InvalidArgument.of_field(
                f"policy.waves[{number}]",
                "it selects everyone else, which only the last wave may; give percent or labels",
            )
    if not waves[-1].is_everyone_else:
        waves.append(Wave())
    return Policy(waves=tuple(waves), limits=_limits(message.health_limits))


def _wave(message: pb.Wave) -> Wave:
    return Wave(
        percent=message.percent if message.HasField("percent") else None,
        labels=MappingProxyType(dict(message.labels.labels)),
        soak_s=message.soak.ToTimedelta().total_seconds(),
        timeout_s=message.timeout.ToTimedelta().total_seconds() if message.HasField("timeout") else TIMEOUT_DEFAULT_S,
        min_healthy_percent=message.min_healthy_percent if message.HasField("min_healthy_percent") else 100,
    )


def _limits(message: pb.FleetHealthLimits) -> HealthLimits:
    has_disconnected = message.HasField("disconnected")
    return HealthLimits(
        quarantined=message.quarantined,
        failed=message.failed,
        error_percent=message.error_percent if message.HasField("error_percent") else ERROR_PERCENT_DEFAULT,
        requests_min=message.requests_min if message.HasField("requests_min") else REQUESTS_MIN_DEFAULT,
        disconnected_s=message.disconnected.ToTimedelta().total_seconds()
        if has_disconnected
        else DISCONNECTED_DEFAULT_S,
    )


# -- which data plane is in which wave -------------------------------------------------------------

Cuts = tuple[int, ...]
"""For each wave, the greatest hash of a data plane that its share takes; -1: none."""


def hash_of(data_plane_id: str) -> int:
    """Where a data plane is among all, for shares: 64 bits that say nothing about its name."""
    return int.from_bytes(hashlib.sha256(data_plane_id.encode()).digest()[:8])


def cuts_of(policy: Policy, voters: Iterable[tuple[str, Mapping[str, str]]]) -> Cuts:
    """How far the share of each wave reaches.

    Made when a rollout begins, and kept: a data plane that comes or goes later does not move the
    others to other waves.

    Args:
        policy: Has the waves.
        voters: Ids and labels of the data planes that vote.
    """
    rest = sorted((hash_of(data_plane_id), labels) for data_plane_id, labels in voters) if _has_shares(policy) else []
    count = len(rest)
    cuts = []
    for wave in policy.waves:
        cut = -1
        if wave.percent is not None:
            taken = rest[: -(-wave.percent * count // 100)]
            rest = rest[len(taken) :]
            cut = taken[-1][0] if taken else -1
        else:
            rest = [item for item in rest if not wave.has_labels_of(item[1])]
        cuts.append(cut)
    return tuple(cuts)


def wave_of(data_plane_id: str, labels: Mapping[str, str], waves: Sequence[Wave], cuts: Cuts) -> int:
    """The wave of a data plane, counted from 1."""
    position = None
    for number, (wave, cut) in enumerate(zip(waves, cuts, strict=True), start=1):
        if wave.percent is not None:
            position = hash_of(data_plane_id) if position is None else position
            if position <= cut:
                return number
        elif wave.is_everyone_else or wave.has_labels_of(labels):
            return number
    raise AssertionError("the last wave takes everyone else")


def _has_shares(policy: Policy) -> bool:
    return any(wave.percent is not None for wave in policy.waves)
