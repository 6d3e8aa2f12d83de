"""vLLM's own OpenAI app over a client of an engine, as Broadsheet's callers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dataplane.engine.app import CURRENT_CALL
from dataplane.engine.vllm import load_log, serve_command
from dataplane.openai import error_answers
from dataplane.openai import errors as openai_errors
from dataplane.openai.routes import INFERENCE_ROUTES


async def open_app(client: Any, parsed: Any, model: str) -> tuple[Any, asyncio.Task[None]]:
    """The app and its lifespan.

    Args:
        client: vLLM's `AsyncLLM`.
        parsed: The arguments of `vllm serve`.
        model: Resource name of the model, for the log.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await client.get_supported_tasks()
    app = build_app(parsed, tasks, client.model_config)
    await init_app_state(client, app.state, parsed, tasks)
    _speak_public_names(app.state.openai_serving_models)
    explain_missing_routes(app, tasks)
    load_log.log_load_as_events(model)
    return app, await serve_command.begin_lifespan(app)


def _speak_public_names(models: Any) -> None:
    """Make vLLM accept the name that the caller asked for, and answer with it.

    The names that vLLM knows are not for callers: a model's served name may change after the start,
    and an adapter's engine-side name contains its digest.
    """
    engine_model_name = models.model_name
    engine_is_base_model = models.is_base_model

    def model_name(lora_request: Any = None) -> str:
        call = CURRENT_CALL.get()
        return call.served_name if call and call.served_name else engine_model_name(lora_request)

    def is_base_model(name: str) -> bool:
        call = CURRENT_CALL.get()
        if call is None or not call.served_name:
            return bool(engine_is_base_model(name))
        return call.adapter is None and name == call.served_name

    models.model_name = model_name
    models.is_base_model = is_base_model


def explain_missing_routes(app: Any, tasks: Sequence[str]) -> None:
    """Make vLLM's app answer a route of another task in the shape of its other errors.

    It has only the routes of its tasks. For others its router raises Starlette's exception, while
    vLLM's handler is for FastAPI's, which the rest of the app raises. FastAPI itself raises
    Starlette's for a body that it cannot read; that goes to vLLM's handler.
    """
    import fastapi
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response

    answer_other = app.exception_handlers[fastapi.HTTPException]

    async def explain(request: Request, error: HTTPException) -> Response:
        if error.status_code not in (404, 405):
            other: Response = await answer_other(request, error)
            return other
        call, path = CURRENT_CALL.get(), request.url.path
        route = INFERENCE_ROUTES.get(path)
        refusal = openai_errors.TaskUnsupported(call.served_name if call else "", path, tasks)
        answer = error_answers.answer_for(refusal, anthropic=route is not None and route.anthropic)
        return Response(answer.body, answer.status, media_type="application/json")

    app.add_exception_handler(HTTPException, explain)
    # vLLM has built it already, for its metrics, and without this handler.
    app.middleware_stack = app.build_middleware_stack()
