"""The connection to the control plane: how long things may take, and when to try again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.sync.events import Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """The state of the connection to the control plane."""

    connected: bool = False
    """Whether the control plane has answered on the current stream."""
    failures: int = 0
    """Consecutive streams that ended before `Timing.good_stream_s`."""
    last_error: str = ""
    """Why the last stream ended. For operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take, in seconds."""

    heartbeat_s: float = 10.0
    """Interval of the control plane's Heartbeats."""
    missed_heartbeats_max: int = 3
    """After this many intervals without any message the stream is dead."""
    backoff_base_s: float = 0.2
    backoff_cap_s: float = 15.0
    """The wait before attempt n is random between 0 and min(cap, base * 2**n): "full jitter" of
    Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015)."""
    received_after_s: float = 0.5
    """A decision that takes longer is preceded by the report that the snapshot has arrived. Most
    take less, and a fleet then answers each change once."""
    reconnect_after_max_s: float = 300.0
    """Longest wait that a Goodbye may ask for."""
    good_stream_s: float = 15.0
    """A stream that lasted this long resets the backoff."""


def backoff_max_s(timing: Timing, failures: int) -> float:
    """The longest wait before the next attempt after so many failures in a row, in seconds."""
    # Bound the exponent: 2.0 ** 1024 overflows, which would happen after hours of failures.
    return min(timing.backoff_cap_s, timing.backoff_base_s * 2.0 ** min(failures, 32))


def asked_wait_s(timing: Timing, ended: Ended) -> float:
    """How long the control plane has asked to wait, in seconds."""
    return min(max(ended.reconnect_after_s, 0.0), timing.reconnect_after_max_s)
