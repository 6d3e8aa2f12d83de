"""Reads the architecture of a base model, and the shapes of its weights from safetensors headers.

A base model may be on a model hub, on another machine, or in another format. Then its shapes are
unknown, and an adapter is not compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from broadsheet.v1 import model_pb2
from controlplane.adapters.safetensors_file import tensors_of
from protocol import sources
from protocol.adapters.safetensors_header import Tensor
from protocol.transport.source_files import open_regular, read_limited

_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_MODULES_FILE = "modules.json"
_CONFIG_FILE = "config.json"
_CONFIG_BYTES_MAX = 16 * 1024 * 1024
_INDEX_BYTES_MAX = 32 * 1024 * 1024
_SHARDS_MAX = 1000


def read(source: model_pb2.Source) -> Mapping[str, Tensor] | None:
    """The tensors of the model at `source`, by name; None: they cannot be read here."""
    if not sources.is_file(source.uri):
        return None
    try:
        directory = Path(sources.file_path(source.uri))
        tensors: dict[str, Tensor] = {}
        for shard in _shards(directory):
            with open_regular(directory / shard) as file:
                tensors.update(tensors_of(file))
    except (OSError, ValueError):
        # A damaged base is reported by its own replica; it is no fault of the adapter.
        return None
    return tensors or None


def read_config(source: model_pb2.Source) -> Mapping[str, object]:
    """The config.json of the model at `source`. Empty: it cannot be read here."""
    if not sources.is_file(source.uri):
        return {}
    try:
        path = Path(sources.file_path(source.uri)) / _CONFIG_FILE
        document = json.loads(read_limited(path, _CONFIG_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def makes_embeddings(source: model_pb2.Source) -> bool:
    """Whether files of Sentence Transformers at `source` say that the model makes embeddings."""
    try:
        return sources.is_file(source.uri) and (Path(sources.file_path(source.uri)) / _MODULES_FILE).is_file()
    except (OSError, ValueError):
        return False


def _shards(directory: Path) -> list[str]:
    index = directory / _INDEX_FILE
    if not index.exists():
        return [_SINGLE_FILE]
    try:
        weight_map = json.loads(read_limited(index, _INDEX_BYTES_MAX))["weight_map"]
        shards = sorted({str(shard) for shard in weight_map.values()})
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("the index is damaged") from None
    if len(shards) > _SHARDS_MAX or any(Path(shard).name != shard for shard in shards):
        raise ValueError("the index names files that no model has")
    return shards
