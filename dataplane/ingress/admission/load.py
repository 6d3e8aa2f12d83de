"""The load of one model at this ingress replica: its leases and its queue."""

from __future__ import annotations

import asyncio
import enum
from collections import OrderedDict
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from types import TracebackType

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress.admission.limits import ModelLimits
from dataplane.ingress.routing import Route
from dataplane.relay.messages import FirstByte
from dataplane.snapshot.activation import Endpoint, View

_CALLERS_MAX = 16
"""Callers that are reported for one model. They only decide whose turn the model's start is."""


@dataclass(slots=True, eq=False)
class Lease:
    """Room for one request at one endpoint. Leaving its `with` block gives the room back."""

    view: View
    route: Route
    endpoint: Endpoint
    give_back: Callable[[Lease], None]
    waited_for_start: bool = False
    """Whether the request had to wait for the model to start."""

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back(self)


class WaitsFor(enum.Enum):
    """The reason why a request waits."""

    START = enum.auto()
    """The model has no endpoint yet."""
    ROOM = enum.auto()
    """Every endpoint has as many requests in flight as it may have, or older requests wait."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits. It is in its model's queue exactly until `granted` is done."""

    resource: str
    served_name: str
    avoid: Container[str]
    granted: asyncio.Future[Lease]
    caller: str
    """Whom the request counts for."""
    waits_for: WaitsFor
    deadlines: dict[WaitsFor, float] = field(default_factory=dict)
    """On the event loop's clock. Each is set once, so that alternating reasons do not extend the
    wait."""
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """The load of one model, as it is reported."""

    in_flight: int
    """Requests in progress, including those that wait."""
    waiting: int
    """Requests that wait for a start or for room."""
    last_request_at: float
    """When a request last arrived or ended, on the clock of `Admission`."""
    waiting_callers: frozenset[str] = frozenset()
    """Whose requests wait for a start; at most `_CALLERS_MAX` of them."""
    first_byte: FirstByte | None = None
    """Of the request that waited longest for the model's last start."""


@dataclass(slots=True, eq=False)
class ModelLoad:
    """The requests of one model."""

    model: snapshot_pb2.ModelEntry
    limits: ModelLimits
    leases: int = 0
    queue: OrderedDict[Waiter, None] = field(default_factory=OrderedDict)
    """Waiting requests, oldest first. While it is not empty, leases go to its front only."""
    last_request_at: float = 0.0
    last_wake_at: float = float("-inf")
    """On the event loop's clock."""
    first_byte: FirstByte | None = None
    is_gone: bool = False
    """Whether the model has left the catalog. Then this is dropped with its last request."""
    wake_timer: asyncio.TimerHandle | None = None
    """Asks again for the model to be woken."""

    def usage(self) -> ModelUsage:
        """The load, as it is reported."""
        return ModelUsage(
            in_flight=self.leases + len(self.queue),
            waiting=len(self.queue),
            last_request_at=self.last_request_at,
            waiting_callers=self._waiting_callers(),
            first_byte=self.first_byte,
        )

    def _waiting_callers(self) -> frozenset[str]:
        found: set[str] = set()
        for waiter in self.queue:
            if waiter.waits_for is WaitsFor.START and len(found) < _CALLERS_MAX:
                found.add(waiter.caller)
        return frozenset(found)

    def note_first_byte(self, replica_id: str, seconds: float) -> None:
        """Note the time to the first byte of a request that waited for the model to start."""
        known = self.first_byte
        # Of many requests that waited for the same start, the longest wait is reported.
        if known is None or known.replica_id != replica_id or known.seconds < seconds:
            self.first_byte = FirstByte(replica_id=replica_id, seconds=seconds)

    def leave_queue(self, waiter: Waiter) -> None:
        """Remove `waiter` from the queue, and end the timers that nothing needs any more."""
        self.queue.pop(waiter, None)
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not self.queue and self.wake_timer is not None:
            self.wake_timer.cancel()
            self.wake_timer = None
