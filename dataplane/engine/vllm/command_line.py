"""The flags of `vllm serve` that Broadsheet sets for a model."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine.vllm.flags import Argument
from dataplane.errors import EngineStartError
from protocol import sources

NO_MEDIA_DOMAIN = "links-are-closed.invalid"
"""vLLM fetches pictures and sounds from any host unless it is given hosts. No host has this name
(RFC 2606 §2), so callers cannot make an engine call into the data plane's network."""


def command_line(entry: snapshot_pb2.ModelEntry, given: Sequence[Argument]) -> list[str]:
    """The flags of `vllm serve` that Broadsheet sets for a model, without names and revisions.

    Args:
        entry: The model.
        given: Its engine arguments. They are not among the flags.

    Raises:
        EngineStartError: the source is not on this node (SOURCE_NOT_FOUND), or has a pipe or device
            in place of a file.
    """
    spec = entry.revision.spec
    words = [f"--model={_model_path(spec.source)}"]
    words.append(f"--tensor-parallel-size={spec.resources.tensor_parallel_size or 1}")
    words.append(f"--pipeline-parallel-size={spec.resources.pipeline_parallel_size or 1}")
    if spec.HasField("lora"):
        words += ["--enable-lora", f"--max-loras={spec.lora.max_adapters}", f"--max-lora-rank={spec.lora.max_rank}"]
    if spec.scaling.idle == model_pb2.Scaling.IDLE_SLEEP:
        words.append("--enable-sleep-mode")
    if all(argument.flag.destination != "allowed_media_domains" for argument in given):
        words.append(f"--allowed-media-domains={NO_MEDIA_DOMAIN}")
    return words


def _model_path(source: model_pb2.Source) -> str:
    if source.uri.startswith(sources.HUB_SCHEME):
        return source.uri.removeprefix(sources.HUB_SCHEME)
    try:
        path = Path(sources.file_path(source.uri))
    except ValueError as error:
        raise EngineStartError(f"{source.uri}: {error}", reason="SOURCE_NOT_FOUND") from error
    if not path.exists():
        raise EngineStartError(f"{source.uri}: no such directory on this node", reason="SOURCE_NOT_FOUND")
    for place in (path, *(path.iterdir() if path.is_dir() else ())):
        if _is_special(place):
            # vLLM would wait for ever for somebody who writes to a pipe.
            raise EngineStartError(f"{source.uri}: {place.name} is a pipe, a socket or a device")
    return str(path)


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # such as a link to nowhere, which vLLM may not need
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
