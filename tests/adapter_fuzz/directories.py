"""Adapter directories before they are written, and the base model that they are for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.adapter_directories import adapter_config, write_base

HIDDEN, INTERMEDIATE, VOCABULARY, LAYERS = 64, 96, 128, 2
MODULES: Mapping[str, tuple[int, int]] = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (32, HIDDEN),
    "self_attn.v_proj": (32, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
"""Modules of a layer: (out, in)."""

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


def write_llama(directory: Path) -> Path:
    """Write a base model of two layers. Returns its directory."""
    shapes: dict[str, Sequence[int]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{module}.weight": shape for module, shape in MODULES.items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    write_base(directory, shapes)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@dataclass(slots=True)
class TensorDraft:
    """A tensor of a file that is written byte by byte, valid or not."""

    name: str
    shape: list[int]
    dtype: str = "F32"
    fill: bytes = b"\0"


@dataclass(slots=True)
class AdapterDraft:
    """An adapter's files before they are written. Mutations change it in place."""

    config: dict[str, object]
    tensors: list[TensorDraft]
    config_bytes: bytes | None = None
    """Instead of `config`."""
    header_edits: list[tuple[str, object]] = field(default_factory=list)
    """Kind and value of each change to the header or the file, made while it is written."""

    def encoded_config(self) -> bytes:
        return self.config_bytes if self.config_bytes is not None else json.dumps(self.config).encode()

    def write(self, directory: Path) -> Path:
        """Write it. Returns the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "adapter_config.json").write_bytes(self.encoded_config())
        (directory / "adapter_model.safetensors").write_bytes(self._encoded_tensors())
        return directory

    def _encoded_tensors(self) -> bytes:
        pairs: list[tuple[str, object]] = [("__metadata__", {"format": "pt"})]
        parts: list[bytes] = []
        position = 0
        for tensor in self.tensors:
            size = math.prod(tensor.shape) * ITEM_BYTES.get(tensor.dtype, 4)
            entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, position + size]}
            pairs.append((tensor.name, entry))
            parts.append((tensor.fill * size)[:size])
            position += size
        for kind, value in self.header_edits:
            _edit_pairs(pairs, kind, value)
        header = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in pairs) + "}"
        encoded = header.encode()
        for kind, value in self.header_edits:
            if kind == "header prefix" and isinstance(value, bytes):
                encoded = value + encoded
            if kind == "header suffix" and isinstance(value, bytes):
                encoded += value
        length = len(encoded)
        for kind, value in self.header_edits:
            if kind == "header length" and isinstance(value, int):
                length = max(0, min(length + value, 2**64 - 1))
        whole = length.to_bytes(8, "little") + encoded + b"".join(parts)
        for kind, value in self.header_edits:
            if kind == "cut" and isinstance(value, float):
                whole = whole[: int(len(whole) * value)]
            if kind == "append" and isinstance(value, bytes):
                whole += value
        return whole


def _edit_pairs(pairs: list[tuple[str, object]], kind: str, value: object) -> None:
    index, (name, entry) = len(pairs) - 1, pairs[-1]
    if kind == "repeat":
        pairs.append((name, entry))
    elif kind == "metadata":
        pairs[0] = ("__metadata__", value)
    elif kind == "entry":
        pairs[index] = (name, value)
    elif kind == "field" and isinstance(value, tuple) and isinstance(entry, dict):
        key, item = value
        changed = {**entry, key: item}
        if item is None:
            del changed[key]
        pairs[index] = (name, changed)


def pairs_for(
    modules: Mapping[str, tuple[int, int]], rank: int, *, layers: int = LAYERS, dtype: str = "F32"
) -> list[TensorDraft]:
    """The matrices of an adapter, in every layer."""
    tensors = []
    for layer in range(layers):
        for module, (rows, columns) in modules.items():
            path = f"base_model.model.model.layers.{layer}.{module}"
            tensors.append(TensorDraft(f"{path}.lora_A.weight", [rank, columns], dtype))
            tensors.append(TensorDraft(f"{path}.lora_B.weight", [rows, rank], dtype))
    return tensors


def plain(**config: object) -> AdapterDraft:
    return AdapterDraft(adapter_config(4, **config), pairs_for(dict(list(MODULES.items())[:3:2]), 4))


def everywhere() -> AdapterDraft:
    return AdapterDraft(adapter_config(8, target_modules="all-linear"), pairs_for(MODULES, 8, dtype="BF16"))


def with_patterns() -> AdapterDraft:
    draft = plain(rank_pattern={"q_proj": 8}, alpha_pattern={r"layers\.1\.self_attn\.v_proj": 32}, use_rslora=True)
    for tensor in draft.tensors:
        if "q_proj" in tensor.name:
            tensor.shape["lora_B" in tensor.name] = 8
    return draft


def embeddings() -> AdapterDraft:
    draft = plain(target_modules=["q_proj", "v_proj", "embed_tokens", "lm_head"])
    draft.tensors += [
        TensorDraft("base_model.model.model.embed_tokens.lora_embedding_A", [4, VOCABULARY]),
        TensorDraft("base_model.model.model.embed_tokens.lora_embedding_B", [HIDDEN, 4]),
        TensorDraft("base_model.model.lm_head.lora_A.weight", [4, HIDDEN]),
        TensorDraft("base_model.model.lm_head.lora_B.weight", [VOCABULARY, 4]),
        TensorDraft("base_model.model.model.embed_tokens.base_layer.weight", [VOCABULARY, HIDDEN]),
    ]
    return draft


def classifier() -> AdapterDraft:
    draft = plain(modules_to_save=["classifier", "score"], task_type="SEQ_CLS")
    draft.tensors.append(TensorDraft("base_model.model.score.weight", [2, HIDDEN]))
    return draft


SEEDS = {seed.__name__: seed for seed in (plain, everywhere, with_patterns, embeddings, classifier)}
"""Adapters that are mutated. Both sides take each of them, `classifier` only where it is served."""
