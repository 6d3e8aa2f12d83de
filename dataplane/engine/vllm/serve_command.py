"""What `vllm serve` does around its engine and its app, done in the same way (vLLM 0.32).

A library gets other defaults from vLLM than its server: smaller batches on accelerators, no log of
its load, a garbage collector that goes through the whole heap. The functions here follow
`vllm/entrypoints/launchers/api_server/entry.py`. A test compares the results field by field.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dataplane.engine.vllm.start_log import error_message
from dataplane.errors import EngineStartError


def prepare(parsed: Any) -> None:
    """What comes before the engine: the way its processes start, plug-ins, and the last checks.

    Args:
        parsed: The arguments of `vllm serve`. Of `launcher.setup_server` it leaves out the socket.

    Raises:
        EngineStartError: There is no parser of a name that is given (ENGINE_ARGS_INVALID).
    """
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    cli_env_setup()
    try:
        if parsed.tool_parser_plugin:
            ToolParserManager.import_tool_parser(parsed.tool_parser_plugin)
        if parsed.reasoning_parser_plugin:
            ReasoningParserManager.import_reasoning_parser(parsed.reasoning_parser_plugin)
        validate_api_server_args(parsed)
    except Exception as error:  # a plug-in may raise anything
        words = error.args[0] if isinstance(error, KeyError) else error_message(error)
        message = f"vLLM refuses its arguments: {words}"
        raise EngineStartError(message, reason="ENGINE_ARGS_INVALID") from error


def engine_args_of(parsed: Any) -> Any:
    """vLLM's `AsyncEngineArgs` for the arguments of `vllm serve`."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import propagate_flash_late_interaction

    engine_args = AsyncEngineArgs.from_cli_args(parsed)
    propagate_flash_late_interaction(parsed, engine_args)
    return engine_args


def config_of(engine_args: Any) -> Any:
    """The `VllmConfig` of an engine behind an API server.

    vLLM's batches depend on the usage context: on an H200, 1,024 sequences and 8,192 tokens in a
    server, 128 and 2,048 without a context.
    """
    from vllm.usage.usage_lib import UsageContext

    return engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)


async def start_client(engine_args: Any, config: Any) -> Any:
    """Start the engine's processes, and return their client (`AsyncLLM`)."""
    client = new_client(engine_args, config)
    try:
        await client.reset_mm_cache()  # of the data that the processor was warmed up with
    except BaseException:
        client.shutdown()
        raise
    return client


def new_client(engine_args: Any, config: Any, **sharing: Any) -> Any:
    """A client. It starts the engine's processes, unless `sharing` says where they are."""
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
        **sharing,
    )


async def begin_lifespan(app: Any) -> asyncio.Task[None]:
    """Run the lifespan of vLLM's app, as uvicorn would, until the returned task is cancelled.

    It logs the engine's load every `VLLM_LOG_STATS_INTERVAL` seconds, which also empties what vLLM
    collects for that log, and exempts the objects of the start from garbage collection.

    Raises:
        Exception: what the lifespan raises at its start.
    """
    begun = asyncio.Event()

    async def live() -> None:
        async with app.router.lifespan_context(app):
            begun.set()
            await asyncio.Event().wait()

    living = asyncio.create_task(live(), name="vLLM's lifespan")
    waiting = asyncio.create_task(begun.wait())
    try:
        await asyncio.wait((living, waiting), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        living.cancel()
        raise
    finally:
        waiting.cancel()
    if living.done():
        await living
    return living
