from __future__ import annotations

import json
from types import SimpleNamespace

import fastapi
import httpx
import pytest

from dataplane.engine.vllm.engine import _extend_workers
from dataplane.engine.vllm.openai_app import explain_missing_routes
from dataplane.errors import EngineStartError


def test_a_worker_extension_in_the_engine_args_is_refused() -> None:
    with pytest.raises(EngineStartError, match="worker_extension_cls") as caught:
        _extend_workers(SimpleNamespace(worker_extension_cls="theirs.Extension"))
    assert caught.value.reason == "ENGINE_ARGS_INVALID"


async def test_only_a_missing_route_is_explained_by_the_tasks_of_the_model() -> None:
    app = fastapi.FastAPI()

    @app.exception_handler(fastapi.HTTPException)
    async def answer(_: fastapi.Request, error: fastapi.HTTPException) -> fastapi.Response:
        return fastapi.responses.JSONResponse({"error": {"code": error.status_code}}, error.status_code)

    @app.post("/v1/completions")
    async def complete(_: dict[str, object]) -> None:
        raise fastapi.HTTPException(418)

    app.middleware_stack = app.build_middleware_stack()
    explain_missing_routes(app, ("generate",))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:

        async def code(path: str, body: bytes) -> tuple[int, object]:
            answer = await client.post(path, content=body, headers={"content-type": "application/json"})
            return answer.status_code, json.loads(answer.content)["error"]["code"]

        assert await code("/v1/embeddings", b"{}") == (404, "unsupported_task")
        assert await code("/v1/completions", b"{}") == (418, 418)
        assert await code("/v1/completions", b'{"prompt":"\xff"}') == (400, 400)
