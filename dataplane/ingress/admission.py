"""Who may go on to an engine replica now, who waits, and who is refused."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from random import Random
from types import TracebackType

from google.protobuf import duration_pb2

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress.routing import Route, choose_endpoint, resolve
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai import errors as openai_errors
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import FirstByte
from dataplane.snapshot.activation import Endpoint, ModelActivation, State, View

_WAKE_INTERVAL_S = 1.0
"""A model is asked to be woken no more often than this."""
_REWAKE_INTERVAL_S = 2.0
"""While requests wait for an idle model it is asked for again: a wake call can get lost with the
agent."""
_FORGOTTEN_S = 60.0
"""After this long without a request a model is no longer reported: the agent has known it since,
and of ten thousand models that were ever asked for each report would be a megabyte."""
_DOWN_S = 1.0
"""How long an endpoint that refused a connection is left alone: the agent takes about as long to
see it gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """What one ingress replica has to do for one model."""

    in_flight: int
    """Requests under way, those that wait included."""
    waiting: int
    """Requests that wait, for a replica to start or to have room."""
    last_request_at: float
    """When a request last came or ended, on the ingress's clock."""
    first_byte: FirstByte | None = None
    """Of the longest wait for the model's last start."""


class Waiting(enum.Enum):
    """What a request waits for."""

    START = enum.auto()
    ROOM = enum.auto()


@dataclass(frozen=True, slots=True)
class Limits:
    """A model's admission, with the defaults that model.proto states for what is not set."""

    max_ongoing_requests: int
    max_queued_requests: int
    queue_timeout_s: float
    cold_start_timeout_s: float

    @classmethod
    def of(cls, model: snapshot_pb2.ModelEntry) -> Limits:
        admission = model.revision.spec.admission
        return cls(
            admission.max_ongoing_requests if admission.HasField("max_ongoing_requests") else 256,
            admission.max_queued_requests if admission.HasField("max_queued_requests") else 1000,
            _seconds(admission.queue_timeout) if admission.HasField("queue_timeout") else 30.0,
            _seconds(admission.cold_start_timeout) if admission.HasField("cold_start_timeout") else 600.0,
        )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


@dataclass(slots=True, eq=False)
class Lease:
    """One place at one endpoint, for one request. Leaving its `with` block gives it back."""

    view: View
    route: Route
    endpoint: Endpoint
    admission: Admission
    waited_for_start: bool = False
    """Whether the request had to wait for the model to start."""

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.admission.release(self)


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that waits. Invariant: it is in its model's queue exactly as long as `granted` is
    not done."""

    resource: str
    served_name: str
    avoid: Container[str]
    granted: asyncio.Future[Lease]
    phase: Waiting
    deadlines: dict[Waiting, float] = field(default_factory=dict)
    """When waiting for this has been too long. Each is set once, so that going back and forth can't
    add up."""
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _ModelLoad:
    """What this ingress has to do for one model."""

    model: snapshot_pb2.ModelEntry
    limits: Limits
    leases: int = 0
    queue: OrderedDict[_Waiter, None] = field(default_factory=OrderedDict)
    """Waiting requests, oldest first. Nobody is let in while it is not empty, but from its
    front."""
    last_request_at: float = 0.0
    last_wake_at: float = float("-inf")
    first_byte: FirstByte | None = None
    rewake: asyncio.TimerHandle | None = None


class Admission:
    """Gives each request a place at an endpoint, in the order they came, or refuses it.

    Every decision is made synchronously on the event loop; a waiting request costs a future and a
    timer. A place that is given back goes to the head of the queue; a new view lets every queue be
    looked through once.
    """

    def __init__(
        self, *, views: ViewHolder, wake: Callable[[str], None], random: Random, clock: Callable[[], float]
    ) -> None:
        self._views = views
        self._wake = wake
        self._random = random
        self._clock = clock
        self._loads: dict[str, _ModelLoad] = {}
        """By model resource name; models that left the catalog go when their last request has."""
        self._in_flight: Counter[str] = Counter()
        """By replica id; none is zero."""
        self._applications: Counter[str] = Counter()
        """By Serve application; none is zero."""
        self._down_until: dict[str, float] = {}
        self._seen: View | None = None

    # --- what requests do -------------------------------------------------------------------------

    async def acquire(self, resource: str, served_name: str, *, avoid: Container[str] = ()) -> Lease:
        """Wait for a place at an endpoint of a model, an adapter's base, or a pinned revision.

        Args:
            resource: its resource name.
            served_name: what the caller asked for.
            avoid: replica ids that it has tried in vain; taken only when no other has room.

        Raises:
            NotReady, NotServedHere, ModelFailed: at once.
            QueueFull: at once, when it would have to wait.
            ColdStartTimeout, Overloaded: it waited too long.
        """
        view = self._views.current
        if view is None:
            raise openai_errors.NotReady
        route = _resolve(view, resource, served_name)
        load = self._load_of(route.model)
        load.last_request_at = self._clock()
        outcome = self._decide(load, view, route, avoid, may_grant=not load.queue)
        if isinstance(outcome, Lease):
            return outcome
        return await self._wait(load, resource, route, avoid, outcome)

    def release(self, lease: Lease) -> None:
        """Give a place back."""
        replica_id, application = lease.endpoint.replica_id, lease.route.activation.application
        _decrement(self._in_flight, replica_id)
        _decrement(self._applications, application)
        load = self._loads[lease.route.model.name]
        load.leases -= 1
        load.last_request_at = self._clock()
        view = self._views.current
        if view is not None:
            if load.queue:
                self._revisit(load, view, only_front=True)
            self._forget_if_gone(load, view)

    def report_down(self, endpoint: Endpoint) -> None:
        """Say that an endpoint refused a connection."""
        now = _now()
        self._down_until = {name: until for name, until in self._down_until.items() if until > now}
        self._down_until[endpoint.replica_id] = now + _DOWN_S
        asyncio.get_running_loop().call_later(_DOWN_S, self._look_at_queues)

    def _look_at_queues(self) -> None:
        """An endpoint may be tried again, which no release tells those who wait for room."""
        view = self._views.current
        for load in tuple(self._loads.values()):
            if load.queue and view is not None:
                self._revisit(load, view, only_front=True)

    def note_first_byte(self, lease: Lease, seconds: float) -> None:
        """Note that a request that waited for its model to start is being answered, `seconds` after
        it came."""
        load = self._loads[lease.route.model.name]
        known = load.first_byte
        # Many may have waited for the same start; the one that came first waited longest.
        if known is None or known.replica_id != lease.endpoint.replica_id or known.seconds < seconds:
            load.first_byte = FirstByte(replica_id=lease.endpoint.replica_id, seconds=seconds)

    # --- what others ask --------------------------------------------------------------------------

    def usage(self) -> Mapping[str, ModelUsage]:
        """By model resource name; models that were not asked for in the last minute are not in
        it."""
        self._forget_unused()
        return {
            name: ModelUsage(
                in_flight=load.leases + len(load.queue),
                waiting=len(load.queue),
                last_request_at=load.last_request_at,
                first_byte=load.first_byte,
            )
            for name, load in self._loads.items()
        }

    def _forget_unused(self) -> None:
        oldest = self._clock() - _FORGOTTEN_S
        unused = [
            name
            for name, load in self._loads.items()
            if not load.leases and not load.queue and load.last_request_at < oldest
        ]
        for name in unused:
            del self._loads[name]

    def applications_in_use(self) -> Mapping[str, int]:
        """Requests at endpoints, by Serve application; one without any is not in it."""
        return dict(self._applications)

    def in_flight(self) -> int:
        """Requests at endpoints."""
        return self._applications.total()

    def waiting(self) -> int:
        """Requests that wait."""
        return sum(len(load.queue) for load in self._loads.values())

    def on_view(self, view: View) -> None:
        """Look at every queue in the light of a new view. Listens to the `ViewHolder`."""
        seen, self._seen = self._seen, view
        other_snapshot = seen is None or seen.snapshot is not view.snapshot
        for name, load in tuple(self._loads.items()):
            if load.queue and (
                other_snapshot or seen is None or seen.activation.models.get(name) != view.activation.models.get(name)
            ):
                self._revisit(load, view)
            if other_snapshot:
                self._forget_if_gone(load, view)

    def refuse_waiting(self) -> None:
        """Refuse every request that waits: the ingress is shutting down."""
        for load in self._loads.values():
            for waiter in tuple(load.queue):
                self._settle(load, waiter, openai_errors.ShuttingDown())

    # --- deciding ---------------------------------------------------------------------------------

    def _decide(
        self, load: _ModelLoad, view: View, route: Route, avoid: Container[str], *, may_grant: bool
    ) -> Lease | Waiting:
        activation = route.activation
        if activation.state is State.FAILED:
            raise openai_errors.ModelFailed(
                route.served_name,
                reason=activation.reason,
                message=activation.message,
                retry_after_s=activation.retry_after_s,
            )
        if not activation.endpoints:
            return Waiting.START
        endpoint = self._choose(load, activation, route, avoid) if may_grant else None
        if endpoint is None:
            return Waiting.ROOM
        load.leases += 1
        self._in_flight[endpoint.replica_id] += 1
        self._applications[activation.application] += 1
        return Lease(view, route, endpoint, self)

    def _choose(
        self, load: _ModelLoad, activation: ModelActivation, route: Route, avoid: Container[str]
    ) -> Endpoint | None:
        down: Container[str] = ()
        if self._down_until:
            now = _now()
            down = {name for name, until in self._down_until.items() if until > now}
        return choose_endpoint(
            activation.endpoints,
            self._in_flight,
            limit=load.limits.max_ongoing_requests,
            affinity=engine_adapter_name(route.adapter) if route.adapter is not None else None,
            avoid=avoid,
            down=down,
            randrange=self._random.randrange,
        )

    def _revisit(self, load: _ModelLoad, view: View, *, only_front: bool = False) -> None:
        """Let in from the front of the queue whom there is room for; refuse whom nothing is left to
        wait for.

        A place given back changes nothing for those behind the first who has to go on waiting: with
        `only_front` the pass ends there, so that it costs what it gives and not the length of the
        queue.
        """
        may_grant = True
        for waiter in tuple(load.queue):
            try:
                route = _resolve(view, waiter.resource, waiter.served_name)
                self._load_of(route.model)
                outcome = self._decide(load, view, route, waiter.avoid, may_grant=may_grant)
            except openai_errors.IngressError as error:
                self._settle(load, waiter, error)
                continue
            if isinstance(outcome, Lease):
                outcome.waited_for_start = Waiting.START in waiter.deadlines
                self._settle(load, waiter, outcome)
                continue
            may_grant = False
            if outcome is Waiting.START:
                self._ask_to_wake(load)
            self._enter_phase(load, waiter, outcome)
            if only_front:
                return

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(
        self, load: _ModelLoad, resource: str, route: Route, avoid: Container[str], phase: Waiting
    ) -> Lease:
        if phase is Waiting.START:
            self._ask_to_wake(load)  # even if this request can't wait: the next one will find it awake
        if len(load.queue) >= load.limits.max_queued_requests:
            raise openai_errors.QueueFull(route.served_name, load.limits.max_queued_requests)
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(resource=resource, served_name=route.served_name, avoid=avoid, granted=granted, phase=phase)
        load.queue[waiter] = None
        self._enter_phase(load, waiter, phase)
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.release(granted.result())  # given in the very moment in which the client went away
            raise
        finally:
            self._leave_queue(load, waiter)

    def _enter_phase(self, load: _ModelLoad, waiter: _Waiter, phase: Waiting) -> None:
        if waiter.timer is not None:
            if waiter.phase is phase:
                return
            waiter.timer.cancel()
        limits = load.limits
        timeout_s = limits.cold_start_timeout_s if phase is Waiting.START else limits.queue_timeout_s
        waiter.phase = phase
        deadline = waiter.deadlines.setdefault(phase, _now() + timeout_s)
        waiter.timer = asyncio.get_running_loop().call_at(deadline, self._expire, load, waiter)

    def _expire(self, load: _ModelLoad, waiter: _Waiter) -> None:
        if waiter.phase is Waiting.START:
            self._settle(
                load, waiter, openai_errors.ColdStartTimeout(waiter.served_name, load.limits.cold_start_timeout_s)
            )
        else:
            self._settle(load, waiter, openai_errors.Overloaded(waiter.served_name, load.limits.queue_timeout_s))

    def _settle(self, load: _ModelLoad, waiter: _Waiter, outcome: Lease | openai_errors.IngressError) -> None:
        self._leave_queue(load, waiter)
        if waiter.granted.done():  # its client has gone, and its task has not run since
            if isinstance(outcome, Lease):
                self.release(outcome)
        elif isinstance(outcome, openai_errors.IngressError):
            waiter.granted.set_exception(outcome)
        else:
            waiter.granted.set_result(outcome)

    def _leave_queue(self, load: _ModelLoad, waiter: _Waiter) -> None:
        load.queue.pop(waiter, None)
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not load.queue and load.rewake is not None:
            load.rewake.cancel()
            load.rewake = None

    # --- waking -----------------------------------------------------------------------------------

    def _ask_to_wake(self, load: _ModelLoad) -> None:
        """Have an idle model woken, and again while requests wait for it. One that is being started
        is left to it."""
        view = self._views.current
        activation = view.activation.models.get(load.model.name) if view is not None else None
        now = _now()
        if (activation is None or activation.state is State.IDLE) and now - load.last_wake_at >= _WAKE_INTERVAL_S:
            load.last_wake_at = now
            self._wake(load.model.name)
        if load.rewake is None:
            load.rewake = asyncio.get_running_loop().call_later(_REWAKE_INTERVAL_S, self._wake_again, load)

    def _wake_again(self, load: _ModelLoad) -> None:
        load.rewake = None
        if any(waiter.phase is Waiting.START for waiter in load.queue):
            self._ask_to_wake(load)

    # --- models -----------------------------------------------------------------------------------

    def _load_of(self, model: snapshot_pb2.ModelEntry) -> _ModelLoad:
        load = self._loads.get(model.name)
        if load is None:
            load = self._loads[model.name] = _ModelLoad(model, Limits.of(model))
        elif load.model is not model:
            load.model, load.limits = model, Limits.of(model)
        return load

    def _forget_if_gone(self, load: _ModelLoad, view: View) -> None:
        if not load.leases and not load.queue and load.model.name not in view.snapshot.deployable:
            self._loads.pop(load.model.name, None)


def _resolve(view: View, resource: str, served_name: str) -> Route:
    route = resolve(view, resource, served_name)
    if route is None:
        raise openai_errors.NotServedHere(served_name)
    return route


def _now() -> float:
    """Seconds on the event loop's clock, which no one sets back."""
    return asyncio.get_running_loop().time()


def _decrement(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
