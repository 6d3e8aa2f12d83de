"""How long a rollout has been as it is, by the clock of this process. Pure.

It begins anew in each process: a soak and a timeout last longer after a restart, never shorter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from controlplane.fleet.data_plane import Traffic
from controlplane.fleet.waves.health import Seen
from controlplane.fleet.waves.rollout import Rollout
from controlplane.fleet.waves.states import State

SAMPLE_S = 60.0
"""Between two samples of the traffic of a data plane."""

SAMPLES_MAX = 10
"""Samples that are kept: the share of errors before a rollout is that of ten minutes."""


class WavesClock:
    """Since when. Times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._wave: object = None
        self._wave_since_s = 0.0
        self._soaks = False
        self._soak_since_s = 0.0
        self._gone_since_s: dict[str, float] = {}
        """Of the data planes that have the target and are disconnected."""
        self._samples: dict[str, deque[Traffic]] = {}
        self._sampled_s = -SAMPLE_S

    def observe(self, rollout: Rollout, seen: Iterable[Seen], now_s: float) -> None:
        """Take a look at the rollout and the data planes that it is about."""
        revision = rollout.target.position.revision if rollout.target is not None else None
        wave = (revision, rollout.wave, rollout.state is State.HALTED, rollout.excused)
        if wave != self._wave:
            self._wave, self._wave_since_s = wave, now_s
        soaks = rollout.state is State.SOAKING
        if soaks and not self._soaks:
            self._soak_since_s = now_s
        self._soaks = soaks
        gone = {item.data_plane_id for item in seen if not item.connected and item.data_plane_id in rollout.given}
        self._gone_since_s = {data_plane_id: self._gone_since_s.get(data_plane_id, now_s) for data_plane_id in gone}

    def sample(self, look: Callable[[], Iterable[Seen]], now_s: float) -> None:
        """Keep the traffic of data planes, now and then."""
        if now_s < self._sampled_s + SAMPLE_S:
            return
        self._sampled_s = now_s
        known = {item.data_plane_id: item.traffic for item in look() if item.traffic is not None}
        samples = {key: self._samples.get(key, deque[Traffic](maxlen=SAMPLES_MAX)) for key in known}
        for key, traffic in known.items():
            samples[key].append(traffic)
        self._samples = samples

    def traffic_before(self, data_plane_id: str) -> Traffic:
        """The oldest traffic that is kept of a data plane."""
        samples = self._samples.get(data_plane_id)
        return samples[0] if samples else Traffic()

    def wave_s(self, now_s: float) -> float:
        """How long ago the wave has begun, or was resumed."""
        return now_s - self._wave_since_s

    def soak_s(self, now_s: float) -> float:
        """How long the wave has been well; 0: it is not."""
        return now_s - self._soak_since_s if self._soaks else 0.0

    def gone_s(self, data_plane_id: str, now_s: float) -> float:
        """For how long a data plane that has the target is disconnected; 0: it is connected."""
        return now_s - self._gone_since_s.get(data_plane_id, now_s)
