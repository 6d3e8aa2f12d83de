"""Waiting until the data planes serve a model or adapter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from broadsheet._async.adapters import AsyncAdapters
from broadsheet._async.fleet import AsyncFleet
from broadsheet._async.models import AsyncModels
from broadsheet._requests.names import is_adapter
from broadsheet.errors import DeadlineExceeded, Unavailable
from broadsheet.progress import ServingProgress
from broadsheet.serving import POLL_INTERVAL_S, ServingWait
from broadsheet.types import Adapter, DataPlane, Model


class AsyncServing(AsyncModels, AsyncAdapters, AsyncFleet):
    """Polls a resource and the data planes until they serve it."""

    async def wait_until_serving(
        self,
        resource: str,
        *,
        revision: int | None = None,
        require_ready: bool = False,
        timeout_s: float = 600.0,
        on_progress: Callable[[ServingProgress], None] | None = None,
    ) -> ServingProgress:
        """Wait until a model or adapter is READY or IDLE on every connected data plane.

        A model with `min_replicas` 0 is IDLE as soon as a data plane has it; only the first request
        shows whether its engine starts. The wait outlasts an outage of the control plane.

        Args:
            resource: A model or an adapter.
            revision: Number of the model or adapter revision; a later revision counts too. None:
                the current revision.
            require_ready: Wait for READY; IDLE does not count.
            timeout_s: How long to wait, in seconds.
            on_progress: Called after every poll, about twice a second.

        Raises:
            NotFound: There is no such model or adapter, or it was deleted during the wait.
            ServingFailed: A data plane reports FAILED or QUARANTINED, or rejected the snapshot.
            ServingTimeout: The time is over, or no data plane is connected.
        """
        wait = ServingWait(
            revision=revision, timeout_s=timeout_s, started_s=time.monotonic(), require_ready=require_ready
        )
        while True:
            try:
                found = await self._poll(resource, wait.rpc_timeout_s(time.monotonic()))
                progress = wait.update(*found, time.monotonic())
                if on_progress is not None:
                    on_progress(progress)
                if progress.done:
                    return progress
            except (Unavailable, DeadlineExceeded) as error:
                wait.missed(error)
            wait.raise_if_late(time.monotonic())
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _poll(self, resource: str, timeout_s: float) -> tuple[Model | Adapter, list[DataPlane]]:
        """The resource, then the data planes: their positions are then as new as its states."""
        get = self.get_adapter if is_adapter(resource) else self.get_model
        found = await get(resource, timeout_s=timeout_s)
        return found, [plane async for plane in self.list_data_planes(timeout_s=timeout_s)]
