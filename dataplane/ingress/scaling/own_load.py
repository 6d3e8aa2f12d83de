"""How much an ingress replica has to do. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

_SMOOTHING_S = 10.0
"""A change of the CPU share shows by two thirds after so long. A snapshot that is taken over uses a
core for a second, and is no load of requests."""


class OwnLoad:
    """The load of this process."""

    def __init__(
        self,
        *,
        target_cpu: float,
        target_requests: int,
        requests: Callable[[], float],
        cpu_s: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """
        Args:
            target_cpu: Cores that one replica should use.
            target_requests: Requests that one replica should have at engines.
            requests: Requests that this one has at engines.
            cpu_s: Seconds of CPU that this process has used.
            monotonic: Seconds on a clock that never steps.
        """
        self._target_cpu = target_cpu
        self._target_requests = target_requests
        self._requests = requests
        self._cpu_s = cpu_s
        self._monotonic = monotonic
        self._seen_at, self._seen_cpu_s = monotonic(), cpu_s()
        self._cpu = 0.0

    def cpu(self) -> float:
        """Cores in use, smoothed."""
        now, used = self._monotonic(), self._cpu_s()
        elapsed = now - self._seen_at
        if elapsed > 0:
            weight = 1 - math.exp(-elapsed / _SMOOTHING_S)
            self._cpu += weight * ((used - self._seen_cpu_s) / elapsed - self._cpu)
            self._seen_at, self._seen_cpu_s = now, used
        return self._cpu

    def in_replicas(self) -> float:
        """How many replicas this work is for: the larger share of the two targets."""
        return max(self.cpu() / self._target_cpu, self._requests() / self._target_requests)
