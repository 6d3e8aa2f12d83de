"""Adapters as unit tests describe them: a configuration and shapes, without files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from controlplane import errors
from controlplane.adapters.lora_config import LoraConfig, parse_config
from protocol.adapters.safetensors_header import Tensor
from tests.adapter_directories import BASE_SHAPES, adapter_config


def tensors(shapes: Mapping[str, Sequence[int]], dtype: str = "F32") -> dict[str, Tensor]:
    return {name: Tensor(dtype, tuple(shape)) for name, shape in shapes.items()}


BASE = tensors(BASE_SHAPES, "BF16")


def config(rank: int = 4, **changes: Any) -> LoraConfig:
    return parse_config(json.dumps(adapter_config(rank, **changes)).encode())


@contextmanager
def refused(reason: errors.Reason, match: str | None = None) -> Iterator[None]:
    """Expects an error about source.uri with this reason."""
    with pytest.raises(errors.InvalidArgument, match=match) as caught:
        yield
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == ["source.uri"]
