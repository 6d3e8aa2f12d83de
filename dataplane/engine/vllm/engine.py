"""Starts vLLM in this process: its own OpenAI app over its own engine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.front_ends.count import front_end_count
from dataplane.engine.front_ends.front_ends import FrontEnds
from dataplane.engine.front_ends.messages import LoadedAdapter
from dataplane.engine.out_of_memory import kernel_kills, start_failure_reason
from dataplane.engine.vllm import serve_command, worker_extension
from dataplane.engine.vllm.command_line import command_line
from dataplane.engine.vllm.flags import Argument, Flag, Takes, arguments, refused
from dataplane.engine.vllm.openai_app import open_app
from dataplane.engine.vllm.shared_core import SharedCore
from dataplane.engine.vllm.start_log import cause_in, error_message, kill_message, log_since, log_sizes, weights_seconds
from dataplane.errors import AdapterError, EngineStartError
from dataplane.openai.asgi import AsgiApp
from protocol.engine_args import RESERVED
from protocol.validation import shorten

_LOAD_FAILED = "ADAPTER_LOAD_FAILED"

_CALL_FAILED = re.compile(r"^Call to \w+ method failed: ")
"""What vLLM puts before the words of an error in its engine process."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a start of vLLM has made."""

    client: Any
    """`AsyncLLM` of this process."""
    app: Any
    lifespan: asyncio.Task[None]
    core: SharedCore | None
    """What other front ends share; None: there are none."""


class VllmEngine:
    """A running vLLM engine and its OpenAI app."""

    def __init__(self, parts: _Parts, weights_s: float | None) -> None:
        self._client, self._app = parts.client, parts.app
        self._parts = parts
        self._weights_s = weights_s
        self._killed = False

    @property
    def app(self) -> AsgiApp:
        """vLLM's own OpenAI app."""
        app: AsgiApp = self._app
        return app

    @property
    def is_alive(self) -> bool:
        """Whether the engine's processes run."""
        return not (self._killed or self._client.errored)

    @property
    def weights_s(self) -> float | None:
        """How long vLLM read the weights, in seconds; None: unknown."""
        return self._weights_s

    @property
    def loaded_adapters(self) -> tuple[str, ...]:
        """Engine-side names of the adapters that vLLM knows."""
        return tuple(self._app.state.openai_serving_models.lora_requests)

    async def load_adapter(self, name: str, path: Path) -> None:
        """Have vLLM load an adapter, unless it has.

        Raises:
            AdapterError: with vLLM's own words.
        """
        from vllm.lora.request import LoRARequest

        models = self._app.state.openai_serving_models
        if name in models.lora_requests:
            return
        request = LoRARequest(lora_name=name, lora_int_id=models.lora_id_counter.inc(1), lora_path=str(path))
        try:
            await self._client.add_lora(request)
            unmatched = await self._unmatched_modules(request.lora_int_id)
        except Exception as error:
            await self._forget(request.lora_int_id)
            raise AdapterError(_words(error), reason=_LOAD_FAILED) from error
        if unmatched:
            await self._forget(request.lora_int_id)
            message = f"vLLM has no module for {len(unmatched)} of its modules, such as {unmatched[0]}"
            raise AdapterError(message, reason=_LOAD_FAILED)
        models.lora_requests[name] = request

    def adapter(self, name: str) -> LoadedAdapter:
        """What a front end has to know of a loaded adapter.

        Raises:
            KeyError: it is not loaded.
        """
        request = self._app.state.openai_serving_models.lora_requests[name]
        return LoadedAdapter(name, request.lora_int_id, request.lora_path)

    async def _unmatched_modules(self, lora_id: int) -> list[str]:
        """The modules of a loaded adapter that no worker has: vLLM passes over them."""
        by_worker: list[list[str]] = await self._client.collective_rpc("unmatched_modules", args=(lora_id,))
        return sorted(set.intersection(*map(set, by_worker)))

    async def _forget(self, lora_id: int) -> None:
        """Remove what a failed load has left in the workers."""
        with contextlib.suppress(Exception):  # a dead engine is noticed by the replica
            await self._client.remove_lora(lora_id)

    async def unload_adapter(self, name: str) -> None:
        """Make vLLM forget an adapter. An unknown one is ignored."""
        from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

        models = self._app.state.openai_serving_models
        request = models.lora_requests.get(name)
        if request is None:
            return
        await models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))
        await self._client.remove_lora(request.lora_int_id)

    async def sleep(self) -> None:
        """Move the weights to main memory, drop the KV cache. Needs an engine without requests."""
        await self._client.sleep(level=1)

    async def wake(self) -> None:
        """Move the weights back to the accelerator."""
        await self._client.wake_up()

    async def answer(self) -> None:
        """Return once the engine core, between two steps, has taken a call from its queue."""
        await self._client.is_sleeping()

    def shutdown(self) -> None:
        """End the engine's processes."""
        self._parts.lifespan.cancel()
        self._client.shutdown()
        if self._parts.core is not None:
            self._parts.core.close()

    def kill(self) -> None:
        """`kill -9` the engine's processes. vLLM's client then ends the requests with an error."""
        from vllm.utils.system_utils import kill_process_tree

        self._killed = True
        for process in self._client.engine_core.resources.engine_manager.processes:
            kill_process_tree(process.pid)


def _words(error: Exception) -> str:
    return _CALL_FAILED.sub("", str(error)) or type(error).__name__


async def start(entry: snapshot_pb2.ModelEntry, front_ends: FrontEnds, cores: int) -> VllmEngine:
    """Start vLLM for a model.

    It takes from tens of seconds to minutes, and blocks the event loop for a part of that.

    Args:
        entry: The model.
        front_ends: Gets its further front ends, if it has several.
        cores: The cores of the node that fall to this replica.

    Raises:
        EngineStartError: with the engine's own reason.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    sizes, kills = log_sizes(), kernel_kills()
    try:
        parts = await _start(entry, front_ends, cores)
    except EngineStartError:
        raise
    except Exception as error:
        message = error_message(error)
        if "Engine core initialization failed" in message:
            # vLLM's engine runs in a process of its own, which writes the reason to the log only.
            message = cause_in(log_since(sizes)) or kill_message(message, kernel_kills() - kills) or message
        raise EngineStartError(message, reason=start_failure_reason(message)) from error
    return VllmEngine(parts, weights_seconds(log_since(sizes)))


async def _start(entry: snapshot_pb2.ModelEntry, front_ends: FrontEnds, cores: int) -> _Parts:
    from vllm.platforms import current_platform

    parsed = _parse(entry)
    if parsed.enable_lora:
        _extend_workers(parsed)
    serve_command.prepare(parsed)
    engine_args = serve_command.engine_args_of(parsed)
    engine_args._api_process_count = max(1, parsed.api_server_count or 1)  # vLLM checks that it fits the rest
    config = serve_command.config_of(engine_args)
    count = _front_end_count(parsed, config, cores)
    core = SharedCore(entry.name, parsed, config, count) if count > 1 else None
    if core is None:
        client = await serve_command.start_client(engine_args, config)
    else:
        client = await core.start(front_ends)
    try:
        if parsed.enable_lora and current_platform.is_cpu():
            await client.collective_rpc("skip_rows_without_adapter")
        app, lifespan = await open_app(client, parsed, entry.name)
    except BaseException:
        client.shutdown()
        raise
    return _Parts(client, app, lifespan, core)


def _front_end_count(parsed: Any, config: Any, cores: int) -> int:
    from vllm.platforms import current_platform

    model, parallel = config.model_config, config.parallel_config
    # The attention and the MLP of a transformer; of a mixture of experts, about what a token uses.
    parameters = 12 * model.get_total_num_hidden_layers() * model.get_hidden_size() ** 2
    try:
        return front_end_count(
            asked=parsed.api_server_count,
            # On the CPU the engine itself computes on the cores. With several, vLLM processes each
            # picture anew, and has a cache of 4 GiB in every one.
            prefers_one=current_platform.is_cpu() or model.is_multimodal_model or parallel.enable_fault_tolerance,
            cores=cores,
            parameters=parameters / parallel.world_size,
        )
    except ValueError as error:
        raise refused("api_server_count", f"got {shorten(parsed.api_server_count)}: {error}") from error


def _parse(entry: snapshot_pb2.ModelEntry) -> Any:
    return read_arguments(entry, serve_parser())


def serve_parser() -> argparse.ArgumentParser:
    """The parser of `vllm serve`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is not followed by mypy
        def error(self, message: str) -> NoReturn:
            raise EngineStartError(f"vLLM refuses its arguments: {message}", reason="ENGINE_ARGS_INVALID")

    parser: argparse.ArgumentParser = make_arg_parser(Parser())
    return parser


def read_arguments(entry: snapshot_pb2.ModelEntry, parser: argparse.ArgumentParser) -> Any:
    """The arguments of `vllm serve` for a model, as vLLM's own parser would have them.

    Raises:
        EngineStartError: The source is not on this node (SOURCE_NOT_FOUND), or an engine argument
            is not one that vLLM takes in full (ENGINE_ARGS_INVALID).
    """
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    given = arguments(entry.revision.spec.engine.args, _flags(parser), RESERVED)
    parsed = parser.parse_args(command_line(entry, given))
    # Not as flags: their text may be `None`, which the parser reads as no value.
    parsed.served_model_name = [entry.served_name]
    parsed.revision = entry.revision.spec.source.revision or None
    for argument in given:
        _set(argument, parser, parsed)
    try:
        validate_parsed_serve_args(parsed)
    except Exception as error:  # some of vLLM's own are no ValueErrors
        message = f"vLLM refuses its arguments: {error_message(error)}"
        raise EngineStartError(message, reason="ENGINE_ARGS_INVALID") from error
    return parsed


def _set(argument: Argument, parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Let the argument's flag convert its words, and set the result."""
    action = parser._option_string_actions[argument.flag.word]  # argparse has no public map of them
    convert: Callable[[str], Any] = action.type if callable(action.type) else str
    try:
        values = [convert(word) for word in argument.words]
    except EngineStartError:
        raise
    except Exception as error:  # those of vLLM raise many kinds
        raise refused(argument.name, f"got {shorten(argument.value)}: {error_message(error)}") from error
    for value in values:
        if action.choices is not None and value not in action.choices:
            allowed = ", ".join(str(choice) for choice in action.choices if choice is not None)
            raise refused(argument.name, f"got {shorten(argument.value)}: takes one of {allowed}")
    if argument.flag.takes is Takes.NONE:
        if argument.spelling is not None:
            action(parser, parsed, [], argument.spelling)
        return
    taken = values if argument.flag.takes is Takes.SEVERAL else values[0]
    argument.check_taken(taken)
    action(parser, parsed, taken, argument.spelling)


def _flags(parser: argparse.ArgumentParser) -> dict[str, Flag]:
    """The flags of vLLM's parser, by each of their long spellings."""
    flags = {}
    for action in parser._actions:  # argparse has no public list of them
        words = [word for word in action.option_strings if word.startswith("--")]
        for word in words:
            opposite = "--" + word.removeprefix("--no-") if word.startswith("--no-") else "--no-" + word[2:]
            flags[word] = Flag(
                word=word,
                destination=action.dest,
                takes=_takes(action),
                opposite=opposite if opposite in words else None,
            )
    return flags


def _takes(action: argparse.Action) -> Takes:
    if action.nargs == 0:
        return Takes.NONE
    return Takes.SEVERAL if action.nargs in ("+", "*") else Takes.ONE


def _extend_workers(parsed: Any) -> None:
    if parsed.worker_extension_cls:
        message = "worker_extension_cls: a model with adapters has Broadsheet's own"
        raise EngineStartError(message, reason="ENGINE_ARGS_INVALID")
    parsed.worker_extension_cls = worker_extension.WORKER_EXTENSION
