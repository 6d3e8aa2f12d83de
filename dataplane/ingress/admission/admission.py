"""Grants each request room at an endpoint in the order of arrival, lets it wait, or refuses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from random import Random

from broadsheet.v1 import snapshot_pb2
from dataplane.ingress.admission.endpoints import EndpointUse
from dataplane.ingress.admission.limits import ModelLimits
from dataplane.ingress.admission.load import Lease, ModelLoad, ModelUsage, Waiter, WaitsFor
from dataplane.ingress.admission.waking import Waker
from dataplane.ingress.choices.routes import Routes
from dataplane.ingress.routing import Route
from dataplane.ingress.view_holder import ViewHolder
from dataplane.openai import errors as openai_errors
from dataplane.snapshot.activation import START_QUEUED, Endpoint, State, View

_UNUSED_S = 60.0
"""A model without a request for this long is no longer reported. The agent knows its last request
by then, and a report of ten thousand models would take up a megabyte."""


class Admission:
    """Decides for each request whether it may go to an endpoint now, waits, or is refused.

    Every decision is made synchronously on the event loop. A waiting request costs a future and a
    timer. Room that is given back goes to the front of the queue. A new view re-examines every
    queue that it affects once.
    """

    def __init__(
        self, *, views: ViewHolder, wake: Callable[[str], None], random: Random, clock: Callable[[], float]
    ) -> None:
        """
        Args:
            views: Holds the current view.
            wake: Called with the resource name of an idle model that is asked for.
            random: For the choice between endpoints.
            clock: Seconds on a clock that never steps, for `ModelUsage.last_request_at`.
        """
        self._views = views
        self._clock = clock
        self._waker = Waker(views=views, wake=wake)
        self._endpoints = EndpointUse(random)
        self._loads: dict[str, ModelLoad] = {}
        """By model resource name. A model that left the catalog is removed when its last request
        ends."""
        self._routes = Routes()
        self._seen: View | None = None
        """The view that `on_view` was last called with."""

    # --- requests ---------------------------------------------------------------------------------

    async def acquire(self, resource: str, served_name: str, *, avoid: Container[str] = (), caller: str = "") -> Lease:
        """Wait for room at an endpoint of a model, an adapter's base, or a pinned revision.

        Args:
            resource: Its resource name.
            served_name: The name that the caller asked for.
            avoid: Replica ids where the request has failed. They are taken only when no other has
                room.
            caller: Whom the request counts for.

        Raises:
            NotReady, NotServedHere, ModelFailed: At once.
            QueueFull: At once, instead of waiting.
            ColdStartTimeout, StartQueuedTimeout, Overloaded: The wait was too long.
        """
        view = self._views.current
        if view is None:
            raise openai_errors.NotReady
        route = self._routes.of(view, resource, served_name)
        load = self._load_of(route.model)
        load.last_request_at = self._clock()
        outcome = self._decide(load, view, route, avoid, may_grant=not load.queue)
        if isinstance(outcome, Lease):
            return outcome
        waiter = Waiter(
            resource=resource,
            served_name=served_name,
            avoid=avoid,
            granted=asyncio.get_running_loop().create_future(),
            caller=caller,
            waits_for=outcome,
        )
        return await self._wait(load, waiter)

    def release(self, lease: Lease) -> None:
        """Give back the room of a lease."""
        self._endpoints.give_back(lease.endpoint, lease.route.activation.application)
        load = self._loads[lease.route.model.name]
        load.leases -= 1
        load.last_request_at = self._clock()
        if load.queue and (view := self._views.current) is not None:
            self._revisit(load, view, only_front=True)
        if load.is_gone:
            self._drop_if_gone(load)

    def report_down(self, endpoint: Endpoint) -> None:
        """For a short time, avoid an endpoint that refused a connection."""
        down_s = self._endpoints.report_down(endpoint)
        asyncio.get_running_loop().call_later(down_s, self._revisit_all)

    def _revisit_all(self) -> None:
        """Re-examine all queues: an endpoint may be tried again, which no release announces."""
        view = self._views.current
        for load in tuple(self._loads.values()):
            if load.queue and view is not None:
                self._revisit(load, view, only_front=True)

    def note_first_byte(self, lease: Lease, seconds: float) -> None:
        """Note the time to the first byte of a request that waited for its model to start.

        Args:
            lease: The request's lease.
            seconds: From the request's arrival to the first byte of its answer.
        """
        self._loads[lease.route.model.name].note_first_byte(lease.endpoint.replica_id, seconds)

    # --- queries ----------------------------------------------------------------------------------

    def usage(self) -> Mapping[str, ModelUsage]:
        """The load of each model, by resource name.

        Models without a request in the last minute are dropped.
        """
        oldest = self._clock() - _UNUSED_S
        for name, load in tuple(self._loads.items()):
            if not load.leases and not load.queue and load.last_request_at < oldest:
                del self._loads[name]
        return {name: load.usage() for name, load in self._loads.items()}

    def applications_in_use(self) -> Mapping[str, int]:
        """Requests in flight, by Serve application; applications without one are left out."""
        return self._endpoints.applications()

    def in_flight(self) -> int:
        """Requests in flight at all endpoints."""
        return self._endpoints.in_flight()

    def waiting(self) -> int:
        """Requests that wait."""
        return sum(len(load.queue) for load in self._loads.values())

    # --- views and shutdown -----------------------------------------------------------------------

    def on_view(self, view: View) -> None:
        """Re-examine the queues that a new view affects. A listener of the `ViewHolder`."""
        seen, self._seen = self._seen, view
        self._routes.forget()
        other_snapshot = seen is None or seen.snapshot is not view.snapshot
        for name, load in tuple(self._loads.items()):
            if load.queue and (
                other_snapshot or seen is None or seen.activation.models.get(name) != view.activation.models.get(name)
            ):
                self._revisit(load, view)
            if other_snapshot:
                load.is_gone = name not in view.snapshot.deployable
                self._drop_if_gone(load)

    def refuse_waiting(self) -> None:
        """Refuse every waiting request, because the ingress shuts down."""
        for load in self._loads.values():
            for waiter in tuple(load.queue):
                self._settle(load, waiter, openai_errors.ShuttingDown())

    # --- decisions --------------------------------------------------------------------------------

    def _decide(
        self, load: ModelLoad, view: View, route: Route, avoid: Container[str], *, may_grant: bool
    ) -> Lease | WaitsFor:
        activation = route.activation
        if activation.state is State.FAILED:
            raise openai_errors.ModelFailed(
                route.served_name,
                reason=activation.reason,
                message=activation.message,
                retry_after_s=activation.retry_after_s,
            )
        if not activation.endpoints:
            return WaitsFor.START
        if not may_grant:
            return WaitsFor.ROOM
        endpoint = self._endpoints.take(route, limit=load.limits.max_ongoing_requests, avoid=avoid)
        if endpoint is None:
            return WaitsFor.ROOM
        load.leases += 1
        return Lease(view, route, endpoint, self.release)

    def _revisit(self, load: ModelLoad, view: View, *, only_front: bool = False) -> None:
        """Grant leases from the front of the queue while there is room, and refuse hopeless waits.

        Room that was given back changes nothing for the requests behind the first one that has to
        wait on. With `only_front` the pass ends there: its cost follows the leases granted, not the
        length of the queue.
        """
        may_grant = True
        for waiter in tuple(load.queue):
            try:
                route = self._routes.of(view, waiter.resource, waiter.served_name)
                self._load_of(route.model)
                outcome = self._decide(load, view, route, waiter.avoid, may_grant=may_grant)
            except openai_errors.IngressError as error:
                self._settle(load, waiter, error)
                continue
            if isinstance(outcome, Lease):
                outcome.waited_for_start = WaitsFor.START in waiter.deadlines
                self._settle(load, waiter, outcome)
                continue
            may_grant = False
            if outcome is WaitsFor.START:
                self._waker.ask(load)
            self._set_deadline(load, waiter, outcome)
            if only_front:
                return

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self, load: ModelLoad, waiter: Waiter) -> Lease:
        if waiter.waits_for is WaitsFor.START:
            self._waker.ask(load)  # even when the queue is full: a later request finds the model awake
        if len(load.queue) >= load.limits.max_queued_requests:
            raise openai_errors.QueueFull(waiter.served_name, load.limits.max_queued_requests)
        load.queue[waiter] = None
        self._set_deadline(load, waiter, waiter.waits_for)
        granted = waiter.granted
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.release(granted.result())  # granted in the moment in which the client left
            raise
        finally:
            load.leave_queue(waiter)

    def _set_deadline(self, load: ModelLoad, waiter: Waiter, waits_for: WaitsFor) -> None:
        if waiter.timer is not None:
            if waiter.waits_for is waits_for:
                return
            waiter.timer.cancel()
        limits, loop = load.limits, asyncio.get_running_loop()
        timeout_s = limits.cold_start_timeout_s if waits_for is WaitsFor.START else limits.queue_timeout_s
        waiter.waits_for = waits_for
        deadline = waiter.deadlines.setdefault(waits_for, loop.time() + timeout_s)
        waiter.timer = loop.call_at(deadline, self._expire, load, waiter)

    def _expire(self, load: ModelLoad, waiter: Waiter) -> None:
        self._settle(load, waiter, _too_late(self._views.current, load, waiter))

    def _settle(self, load: ModelLoad, waiter: Waiter, outcome: Lease | openai_errors.IngressError) -> None:
        load.leave_queue(waiter)
        if waiter.granted.done():  # its client has left, and its task has not run since
            if isinstance(outcome, Lease):
                self.release(outcome)
        elif isinstance(outcome, openai_errors.IngressError):
            waiter.granted.set_exception(outcome)
        else:
            waiter.granted.set_result(outcome)

    # --- models -----------------------------------------------------------------------------------

    def _load_of(self, model: snapshot_pb2.ModelEntry) -> ModelLoad:
        load = self._loads.get(model.name)
        if load is None:
            load = self._loads[model.name] = ModelLoad(model, ModelLimits.of(model))
        elif load.model is not model:
            load.model, load.limits = model, ModelLimits.of(model)
        return load

    def _drop_if_gone(self, load: ModelLoad) -> None:
        if load.is_gone and not load.leases and not load.queue:
            self._loads.pop(load.model.name, None)


def _too_late(view: View | None, load: ModelLoad, waiter: Waiter) -> openai_errors.IngressError:
    """Why a request has waited in vain."""
    if waiter.waits_for is WaitsFor.ROOM:
        return openai_errors.Overloaded(waiter.served_name, load.limits.queue_timeout_s)
    activation = view.activation.models.get(load.model.name) if view is not None else None
    is_queued = activation is not None and activation.reason == START_QUEUED
    error = openai_errors.StartQueuedTimeout if is_queued else openai_errors.ColdStartTimeout
    return error(waiter.served_name, load.limits.cold_start_timeout_s)
