from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import fastapi
import pytest

from dataplane.engine.vllm.serve_command import begin_lifespan


async def test_a_lifespan_lasts_until_its_task_is_cancelled() -> None:
    seen = []

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        seen.append("begun")
        try:
            yield
        finally:
            seen.append("ended")

    living = await begin_lifespan(fastapi.FastAPI(lifespan=lifespan))
    await asyncio.sleep(0)
    assert seen == ["begun"]
    living.cancel()
    await asyncio.wait((living,))
    assert seen == ["begun", "ended"]


async def test_what_a_lifespan_raises_at_its_start_ends_the_start() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        app.state.plug_in.start()
        yield

    with pytest.raises(AttributeError, match="plug_in"):
        await begin_lifespan(fastapi.FastAPI(lifespan=lifespan))
