"""The flags of `vllm serve` for a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import json_format

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.errors import EngineStartError
from protocol import sources


def command_line(entry: snapshot_pb2.ModelEntry) -> list[str]:
    """The flags of `vllm serve` for a model.

    Raises:
        EngineStartError: the source is not on this node (SOURCE_NOT_FOUND), or an argument has a
            value that no flag can have (ENGINE_ARGS_INVALID).
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
    """`value` with whole numbers as integers: a protobuf Struct has only floating-point numbers."""
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
