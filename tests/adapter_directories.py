"""Writes adapters and base models to disk, byte by byte, valid or not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Shapes = Mapping[str, Sequence[int]]

BASE_SHAPES: Shapes = {
    "model.embed_tokens.weight": (32, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.v_proj.weight": (8, 16),
    "model.layers.1.self_attn.q_proj.weight": (16, 16),
    "model.layers.1.self_attn.v_proj.weight": (8, 16),
    "model.layers.1.mlp.down_proj.weight": (16, 24),
}
"""Shapes of a small decoder."""


def lora_shapes(
    *, rank: int = 4, layers: int = 2, modules: Mapping[str, tuple[int, int]] | None = None, prefix: str = ""
) -> dict[str, Sequence[int]]:
    """The tensors of a LoRA for the base above. `modules`: name below a layer → (out, in)."""
    modules = modules or {"self_attn.q_proj": (16, 16), "self_attn.v_proj": (8, 16)}
    shapes: dict[str, Sequence[int]] = {}
    for layer in range(layers):
        for module, (out_features, in_features) in modules.items():
            path = f"base_model.model.{prefix}model.layers.{layer}.{module}"
            shapes[f"{path}.lora_A.weight"] = (rank, in_features)
            shapes[f"{path}.lora_B.weight"] = (out_features, rank)
    return shapes


def safetensors_bytes(shapes: Shapes, *, dtype: str = "F32", item_bytes: int = 4, fill: bytes = b"\0") -> bytes:
    """A whole file with these tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + math.prod(shape) * item_bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + fill * position


def adapter_config(rank: int = 4, **changes: object) -> dict[str, object]:
    """What PEFT 0.21 writes for a plain LoRA, with `changes`."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "a-base",
        "r": rank,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "use_dora": False,
        **changes,
    }


def write_adapter(
    directory: Path, *, rank: int = 4, shapes: Shapes | None = None, fill: bytes = b"\0", **config: object
) -> Path:
    """Write an adapter that fits the base above unless told otherwise. Returns its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(adapter_config(rank, **config)))
    content = safetensors_bytes(shapes if shapes is not None else lora_shapes(rank=rank), fill=fill)
    (directory / "adapter_model.safetensors").write_bytes(content)
    return directory


def write_base(directory: Path, shapes: Shapes = BASE_SHAPES, *, dtype: str = "F32", item_bytes: int = 4) -> Path:
    """Write the weights of a base model into one file. Returns its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(safetensors_bytes(shapes, dtype=dtype, item_bytes=item_bytes))
    return directory
