"""What an engine gives the front ends that share it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.openai.asgi import AsgiApp


class FrontEndEngine(Protocol):
    """The engine as a front-end process sees it. The replica's process owns it."""

    @property
    def app(self) -> AsgiApp:
        """Its own OpenAI app."""

    @property
    def is_alive(self) -> bool:
        """Whether its processes run, as far as this process knows."""

    def knows_adapter(self, name: str) -> bool:
        """Whether this front end can name the adapter to the engine."""

    def learn_adapter(self, adapter: LoadedAdapter) -> None:
        """Note an adapter that the engine has loaded."""

    def forget_adapter(self, name: str) -> None:
        """Forget an adapter. An unknown one is ignored."""


Opening = Callable[[], Awaitable[FrontEndEngine]]
"""Called once in the front-end process, which it is pickled for. Returns when the engine is up."""


class Seat(Protocol):
    """A place for one front end at an engine. It is not used again when its front end has ended."""

    @property
    def opening(self) -> Opening:
        """For the process that takes the seat."""

    def taken(self) -> None:
        """Called when that process has been started: it has its own copy of all that it needs."""

    async def left(self) -> None:
        """Called when that process has ended: end what the engine still does for it."""
