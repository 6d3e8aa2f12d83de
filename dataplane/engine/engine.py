"""What a replica needs of an engine of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.openai.asgi import AsgiApp


class Engine(Protocol):
    """A started engine: vLLM or the simulated one."""

    @property
    def app(self) -> AsgiApp:
        """Its own OpenAI app."""

    @property
    def is_alive(self) -> bool:
        """Whether its processes run. It may hang all the same: `answer` finds that out."""

    @property
    def loaded_adapters(self) -> tuple[str, ...]:
        """Engine-side names of its adapters."""

    @property
    def weights_s(self) -> float | None:
        """How long it read its weights, in seconds; None: unknown."""

    async def answer(self) -> None:
        """Return once the engine's loop, which computes the answers, has come round."""

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load an adapter from a directory that stays until it is unloaded.

        Raises:
            AdapterError: it cannot be loaded. The engine goes on without it.
        """

    def adapter(self, name: str) -> LoadedAdapter:
        """What a front end has to know of a loaded adapter.

        Raises:
            KeyError: it is not loaded.
        """

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. An unknown one is ignored."""

    async def sleep(self) -> None:
        """Free the accelerator's memory. Called without a request in the engine."""

    async def wake(self) -> None:
        """Be ready for requests again."""

    def shutdown(self) -> None:
        """End its processes."""

    def kill(self) -> None:
        """End it whatever it is doing, and its requests with it. It is not alive afterwards."""
