"""The asyncio client: the methods of `broadsheet.client`, with the same arguments and errors."""

from __future__ import annotations

from broadsheet._async.api_keys import AsyncApiKeys
from broadsheet._async.history import AsyncHistory
from broadsheet._async.rollouts import AsyncRollouts
from broadsheet._async.routes import AsyncRoutes
from broadsheet._async.serving import AsyncServing
from broadsheet._async.waves import AsyncWaves

__all__ = ["AsyncClient"]


class AsyncClient(AsyncServing, AsyncRollouts, AsyncRoutes, AsyncApiKeys, AsyncHistory, AsyncWaves):
    """`broadsheet.Client` for asyncio. Use it as an async context manager, or `close` it.

    A client belongs to one event loop. Methods that list are async iterators: `async for model in
    client.list_models()`.
    """
