"""vLLM in this process: its own OpenAI app over its own engine. Knows vLLM's internals (0.32).

vLLM is imported inside the functions: it takes ten seconds, and everything but a VLLM replica does
without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from google.protobuf import json_format

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine.app import CURRENT_CALL
from dataplane.engine.out_of_memory import kernel_kills, start_failure_reason
from dataplane.engine.vllm import cpu_lora
from dataplane.errors import EngineStartError
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import AsgiApp
from dataplane.openai.routes import INFERENCE_ROUTES
from protocol import sources

_RESOLVER_NAME = "broadsheet"
_CAUSE = re.compile(r"(?:^|[\s\]])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)): (.+)")
_KILLED = re.compile(r"Failed core proc\(s\): \{[^}]*: -9\b")
_WEIGHTS_LOADED = re.compile(r"Loading weights took (\d+(?:\.\d+)?) seconds")
_LOG_TAIL_BYTES = 256 * 1024
_PYDANTIC_VALUE_ERROR = re.compile(r"validation errors? for \w+.*?Value error, (.+?)\s*\[type=value_error", re.DOTALL)

AdapterPath = Callable[[str], Path | None]
"""Engine-side name → directory with its verified files, or None when the replica was not told of
it."""


class VllmEngine:
    """A running vLLM engine and its OpenAI app."""

    def __init__(self, client: Any, app: Any, weights_s: float | None) -> None:
        self._client = client
        self._app = app
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
        """How long vLLM read the weights, in seconds; None where it does not say."""
        return self._weights_s

    @property
    def loaded_adapters(self) -> tuple[str, ...]:
        """Engine-side names of the adapters that vLLM knows."""
        return tuple(self._app.state.openai_serving_models.lora_requests)

    async def unload_adapter(self, name: str) -> None:
        """Make vLLM forget an adapter. Nothing happens when it does not know it."""
        from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

        models = self._app.state.openai_serving_models
        request = models.lora_requests.get(name)
        if request is None:
            return
        await models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))
        await self._client.remove_lora(request.lora_int_id)

    async def sleep(self) -> None:
        """Move the weights to main memory and drop the KV cache. It has no request, and gets none
        until `wake`."""
        await self._client.sleep(level=1)

    async def wake(self) -> None:
        """Move the weights back; it answers as before."""
        await self._client.wake_up()

    async def answer(self) -> None:
        """Back when the engine core has taken a question from its queue: it does so between two
        steps."""
        await self._client.is_sleeping()

    def shutdown(self) -> None:
        """End the engine's processes."""
        self._client.shutdown()

    def kill(self) -> None:
        """`kill -9` the engine's processes. vLLM's client notices, and ends the requests with an
        error."""
        from vllm.utils.system_utils import kill_process_tree

        self._killed = True
        for process in self._client.engine_core.resources.engine_manager.processes:
            kill_process_tree(process.pid)


async def start(entry: snapshot_pb2.ModelEntry, adapter_path: AdapterPath) -> VllmEngine:
    """Start vLLM for a model; takes from tens of seconds to minutes, and blocks the event loop for
    part of them.

    Raises:
        EngineStartError: with the engine's own reason.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if entry.revision.spec.HasField("lora"):
        # Lets vLLM ask a resolver for an unknown name; the routes that it also opens are not
        # forwarded by the ingress.
        os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    arguments = command_line(entry)
    log_sizes, kills = _log_sizes(), kernel_kills()
    try:
        client, app = await _start(arguments, adapter_path)
    except EngineStartError:
        raise
    except Exception as error:
        message = _message(error)
        if "Engine core initialization failed" in message:
            # vLLM's engine runs in a process of its own, which tells its reason to the log only.
            message = _cause_in(_log_since(log_sizes)) or _killed(message, kernel_kills() - kills) or message
        raise EngineStartError(message, reason=start_failure_reason(message)) from error
    return VllmEngine(client, app, _weights_seconds(_log_since(log_sizes)))


async def _start(arguments: Sequence[str], adapter_path: AdapterPath) -> tuple[Any, Any]:
    """The engine's client, and its OpenAI app."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.lora.resolver import LoRAResolverRegistry
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    parsed = _parse(arguments)
    lora_on_cpu = parsed.enable_lora and current_platform.is_cpu()
    if parsed.enable_lora:
        LoRAResolverRegistry.register_resolver(_RESOLVER_NAME, _resolver(adapter_path))
    if lora_on_cpu:
        _extend_workers(parsed)
    client = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(parsed))
    try:
        if lora_on_cpu:
            await client.collective_rpc("skip_rows_without_adapter")
        tasks = await client.get_supported_tasks()
        app = build_app(parsed, tasks, client.model_config)
        await init_app_state(client, app.state, parsed, tasks)
    except BaseException:
        client.shutdown()
        raise
    _speak_public_names(app.state.openai_serving_models)
    _explain_missing_routes(app, tasks)
    return client, app


def command_line(entry: snapshot_pb2.ModelEntry) -> list[str]:
    """The flags of `vllm serve` for a model.

    Raises:
        EngineStartError: the source cannot be there (SOURCE_NOT_FOUND), or an argument has a value
            that no flag can have (ENGINE_ARGS_INVALID).
    """
    spec = entry.revision.spec
    arguments = ["--model", _model_path(spec.source), "--served-model-name", entry.served_name]
    if spec.source.revision:
        arguments += ["--revision", spec.source.revision]
    arguments += ["--tensor-parallel-size", str(spec.resources.tensor_parallel_size or 1)]
    arguments += ["--pipeline-parallel-size", str(spec.resources.pipeline_parallel_size or 1)]
    if spec.HasField("lora"):
        arguments += ["--enable-lora", "--max-loras", str(spec.lora.max_adapters)]
        arguments += ["--max-lora-rank", str(spec.lora.max_rank)]
    if spec.scaling.idle == model_pb2.Scaling.IDLE_SLEEP:
        arguments.append("--enable-sleep-mode")
    try:
        engine_args = json_format.MessageToDict(spec.engine.args)
    except ValueError as error:  # a number that JSON does not have
        raise EngineStartError(f"engine arguments: {error}", reason="ENGINE_ARGS_INVALID") from error
    for name, value in engine_args.items():
        arguments += _flag(name, value)
    return arguments


def _flag(name: str, value: object) -> list[str]:
    flag = "--" + name.replace("_", "-")
    match value:
        case None:
            return []
        case True:
            return [flag]
        case False:
            return ["--no-" + flag.removeprefix("--")]
        case str():
            return [f"{flag}={value}"]
        case float() if value.is_integer():
            return [f"{flag}={int(value)}"]
        case float():
            return [f"{flag}={value!r}"]
        case list():
            return [flag, *(item if isinstance(item, str) else json.dumps(_integral(item)) for item in value)]
        case _:
            return [f"{flag}={json.dumps(_integral(value))}"]


def _integral(value: object) -> object:
    """`value` with whole numbers as integers: a protobuf Struct knows only floating-point
    numbers."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {key: _integral(item) for key, item in value.items()}
        case list():
            return [_integral(item) for item in value]
    return value


def _model_path(source: model_pb2.Source) -> str:
    if source.uri.startswith(sources.HUB_SCHEME):
        return source.uri.removeprefix(sources.HUB_SCHEME)
    try:
        path = Path(sources.file_path(source.uri))
    except ValueError as error:
        raise EngineStartError(f"{source.uri}: {error}", reason="SOURCE_NOT_FOUND") from error
    if not path.exists():
        raise EngineStartError(f"{source.uri}: no such directory on this node", reason="SOURCE_NOT_FOUND")
    return str(path)


def _parse(arguments: Sequence[str]) -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is not followed by mypy
        def error(self, message: str) -> NoReturn:
            raise EngineStartError(f"vLLM refuses its arguments: {message}", reason="ENGINE_ARGS_INVALID")

    try:
        parsed = make_arg_parser(Parser()).parse_args(list(arguments))
        validate_parsed_serve_args(parsed)
    except (TypeError, ValueError) as error:
        raise EngineStartError(f"vLLM refuses its arguments: {error}", reason="ENGINE_ARGS_INVALID") from error
    return parsed


def _extend_workers(parsed: Any) -> None:
    if parsed.worker_extension_cls:
        message = "worker_extension_cls: on CPUs, a model with adapters has Broadsheet's own"
        raise EngineStartError(message, reason="ENGINE_ARGS_INVALID")
    parsed.worker_extension_cls = cpu_lora.WORKER_EXTENSION


def _resolver(adapter_path: AdapterPath) -> Any:
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver

    class CatalogResolver(LoRAResolver):  # type: ignore[misc]  # vLLM is not followed by mypy
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            path = adapter_path(lora_name)
            if path is None:
                return None
            # vLLM puts its own id in the place of the 1.
            return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(path))

    return CatalogResolver()


def _speak_public_names(models: Any) -> None:
    """Make vLLM accept the name that the caller asked for, and answer with it, instead of those it
    was started with.

    A model's served name may change, and an adapter's engine-side name carries its digest; callers
    see neither.
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


def _explain_missing_routes(app: Any, tasks: Sequence[str]) -> None:
    """Have vLLM's app, which has the routes of its tasks only, answer for the others in the shape
    of its other errors.

    The router raises Starlette's exception; vLLM's own handler is for FastAPI's, which the rest of
    the app raises.
    """
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response

    async def explain(request: Request, error: HTTPException) -> Response:
        call, path = CURRENT_CALL.get(), request.url.path
        route = INFERENCE_ROUTES.get(path)
        refusal = openai_errors.TaskUnsupported(call.served_name if call else "", path, tasks)
        answer = openai_errors.answer_for(refusal, anthropic=route is not None and route.anthropic)
        return Response(answer.body, answer.status, media_type="application/json")

    app.add_exception_handler(HTTPException, explain)
    # vLLM has had it built already, for its metrics.
    app.middleware_stack = app.build_middleware_stack()


def _message(error: BaseException) -> str:
    """What `error` says, without what pydantic puts around it."""
    text = str(error) or type(error).__name__
    validation = _PYDANTIC_VALUE_ERROR.search(text)
    return validation[1].strip() if validation else text


def _log_sizes() -> dict[Path, int]:
    """The files that this replica's stdout and stderr go to, vLLM's own processes included, and
    their sizes now."""
    found = {}
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            path = Path(f"/proc/self/fd/{descriptor}").resolve(strict=True)
            if path.is_file():
                found[path] = path.stat().st_size
    return found


def _log_since(sizes: Mapping[Path, int]) -> str:
    """What was written to the replica's log since it had these sizes."""
    texts = []
    for path, size in sizes.items():
        with path.open("rb") as log:
            log.seek(size)
            texts.append(log.read(_LOG_TAIL_BYTES).decode("utf-8", "replace"))
    return "\n".join(texts)


def _cause_in(text: str) -> str:
    """The first exception that the engine's process wrote; empty: none."""
    causes = [match for line in text.splitlines() if (match := _CAUSE.search(line))]
    for match in causes:
        if "Engine core initialization failed" not in match[2]:
            return f"{match[1]}: {match[2]}"
    return ""


def _killed(message: str, kernel_kills: int) -> str:
    """What there is to say when vLLM says that its engine's process was killed; empty: it does not
    say that."""
    if not _KILLED.search(message):
        return ""
    cause = "the machine ran out of memory, and its kernel killed a process" if kernel_kills else "by whom is not known"
    return f"the engine's process was killed (SIGKILL) while it started: {cause}"


def _weights_seconds(text: str) -> float | None:
    """How long reading the weights took, by vLLM's own words; with several workers the longest."""
    return max((float(match[1]) for match in _WEIGHTS_LOADED.finditer(text)), default=None)
