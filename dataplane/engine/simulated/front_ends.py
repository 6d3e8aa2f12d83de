"""Front ends of a simulated engine. Each simulates its own: there is no core to share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.front_ends.seat import Opening
from dataplane.engine.simulated.app import SimulatedEngine, build_app
from dataplane.engine.simulated.settings import SimulatedSettings


class SimulatedFrontEnd:
    """A simulated engine in a front-end process."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.app = engine
        self._adapters: set[str] = set()

    @property
    def is_alive(self) -> bool:
        """Always: it goes with its process."""
        return self.app.is_alive

    def knows_adapter(self, name: str) -> bool:
        """Whether it has been told of the adapter."""
        return name in self._adapters

    def learn_adapter(self, adapter: LoadedAdapter) -> None:
        """Note an adapter."""
        self._adapters.add(adapter.name)

    def forget_adapter(self, name: str) -> None:
        """Forget an adapter. An unknown one is ignored."""
        self._adapters.discard(name)


@dataclass(frozen=True, slots=True)
class SimulatedSeat:
    """A seat of which there are as many as are asked for."""

    settings: SimulatedSettings

    @property
    def opening(self) -> Opening:
        """Opens an engine with the same settings."""
        return partial(open_front_end, self.settings)

    def taken(self) -> None:
        """Do nothing: nothing was held for it."""

    async def left(self) -> None:
        """Do nothing: its requests have ended with it."""


def seats(settings: SimulatedSettings) -> Iterator[SimulatedSeat]:
    """Seats without end."""
    while True:
        yield SimulatedSeat(settings)


async def open_front_end(settings: SimulatedSettings) -> SimulatedFrontEnd:
    """The engine of one front-end process."""
    return SimulatedFrontEnd(build_app(settings, random=Random(), clock=time.monotonic))  # noqa: S311
