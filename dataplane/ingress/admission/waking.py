"""Asks for idle models to be woken while requests wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dataplane.ingress.admission.load import ModelLoad, WaitsFor
from dataplane.ingress.view_holder import ViewHolder
from dataplane.snapshot.activation import State

_WAKE_INTERVAL_S = 1.0
"""Shortest interval between two wake calls for the same model."""
_REWAKE_INTERVAL_S = 2.0
"""Interval of wake calls while requests wait for an idle model: a wake call is lost when the agent
restarts."""


class Waker:
    """Sends wake calls for idle models."""

    def __init__(self, *, views: ViewHolder, wake: Callable[[str], None]) -> None:
        self._views = views
        self._wake = wake

    def ask(self, load: ModelLoad) -> None:
        """Ask for an idle model to be woken, and again while requests wait for its start.

        A model that is already starting is not asked for.
        """
        loop = asyncio.get_running_loop()
        view = self._views.current
        activation = view.activation.models.get(load.model.name) if view is not None else None
        now = loop.time()
        if (activation is None or activation.state is State.IDLE) and now - load.last_wake_at >= _WAKE_INTERVAL_S:
            load.last_wake_at = now
            self._wake(load.model.name)
        if load.wake_timer is None:
            load.wake_timer = loop.call_later(_REWAKE_INTERVAL_S, self._ask_again, load)

    def _ask_again(self, load: ModelLoad) -> None:
        load.wake_timer = None
        if any(waiter.waits_for is WaitsFor.START for waiter in load.queue):
            self.ask(load)
