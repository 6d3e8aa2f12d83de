"""vLLM in a front-end process: its OpenAI app over an engine core that the replica has started."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.vllm import serve_command
from dataplane.engine.vllm.openai_app import open_app
from dataplane.openai.asgi import AsgiApp


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a front-end process gets from its replica, pickled while the process is spawned."""

    model: str
    """Resource name of the model."""
    parsed: Any
    """The arguments of `vllm serve`."""
    config: bytes = field(repr=False)
    """The pickled `VllmConfig` of the engine, from before its start."""
    addresses: Mapping[str, Any]
    """vLLM's `client_addresses`: where this client and the engine core meet."""
    client_count: int
    client_index: int
    """Of the client among all that the engine core knows."""


class VllmFrontEnd:
    """One client of the engine core, and the app over it."""

    def __init__(self, client: Any, app: Any) -> None:
        self._client = client
        self._app = app

    @property
    def app(self) -> AsgiApp:
        """vLLM's own OpenAI app."""
        app: AsgiApp = self._app
        return app

    @property
    def is_alive(self) -> bool:
        """Whether the engine core has said nothing of its end."""
        return not self._client.errored

    def knows_adapter(self, name: str) -> bool:
        """Whether vLLM's app here has the adapter."""
        return name in self._adapters

    def learn_adapter(self, adapter: LoadedAdapter) -> None:
        """Give vLLM's app here an adapter that the engine core has loaded."""
        from vllm.lora.request import LoRARequest

        self._adapters[adapter.name] = LoRARequest(
            lora_name=adapter.name, lora_int_id=adapter.number, lora_path=adapter.path
        )

    def forget_adapter(self, name: str) -> None:
        """Make vLLM's app here forget an adapter. An unknown one is ignored."""
        self._adapters.pop(name, None)

    @property
    def _adapters(self) -> dict[str, Any]:
        adapters: dict[str, Any] = self._app.state.openai_serving_models.lora_requests
        return adapters


async def open_front_end(place: Place) -> VllmFrontEnd:
    """Connect to the engine core. It waits, blocking the event loop, until that is up."""
    serve_command.prepare(place.parsed)
    config = pickle.loads(place.config)  # noqa: S301  # by this process's parent
    client = serve_command.new_client(
        serve_command.engine_args_of(place.parsed),
        config,
        client_addresses=dict(place.addresses),
        client_count=place.client_count,
        client_index=place.client_index,
    )
    # Of the data that the processor was warmed up with. The engine core's own cache stays, because
    # requests of other front ends may use it.
    client.renderer._join_mm_warmup()
    await client.renderer.clear_mm_cache_async()
    app, _ = await open_app(client, place.parsed, place.model)
    return VllmFrontEnd(client, app)
