"""Models of random weights, for machines that cannot download any.

    python -m tests.bench.vllm_path.random_models DIRECTORY TOKENIZER NAME …

They are Llamas with the tokenizer and the vocabulary of another model, of which only the
configuration and the tokenizer's files are needed. What they write is noise, at the cost of a model
of that shape. A model that is there already is left as it is.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.output import tell

SHAPES: Mapping[str, Mapping[str, int | bool]] = {
    # That of Llama 3 8B, but for the vocabulary.
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
    # That of SmolLM2 135M.
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    # For rehearsals on a CPU: vLLM's kernels there want heads of 64.
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
}
_FILE_BYTES = 4_000_000_000
_DEVIATION = 0.02


def write(directory: Path, name: str, tokenizer: Path) -> Path:
    """Write a model, unless it is there. Returns its directory."""
    made, partial = directory / name, directory / f".{name}.partial"
    if made.exists():
        return made
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in tokenizer.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, partial)
    config = {**json.loads((tokenizer / "config.json").read_text()), **SHAPES[name]}
    config.pop("_name_or_path", None)
    (partial / "config.json").write_text(json.dumps(config, indent=1))
    began = time.monotonic()
    size = _write_weights(partial, config)
    partial.rename(made)
    tell(f"{name}: {size / 1e9:.2f} GB of random weights in {time.monotonic() - began:.0f} s")
    return made


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a Llama's weights, by their names."""
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (queries, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, queries),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes


def _write_weights(directory: Path, config: Mapping[str, Any]) -> int:
    """Write the files and their index. Returns how many bytes the weights have."""
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    held: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    total = held_bytes = 0

    def flush() -> None:
        nonlocal held_bytes
        file = f"model-{len(set(places.values())) + 1:05d}.safetensors"
        save_file(held, directory / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(held, file))
        held.clear()
        held_bytes = 0

    for name, shape in tensors(config).items():
        weights = torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) > 1:
            weights = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, _DEVIATION).cpu()
        held[name] = weights
        held_bytes += weights.nbytes
        total += weights.nbytes
        if held_bytes > _FILE_BYTES:
            flush()
    if held:
        flush()
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


if __name__ == "__main__":
    for wanted in sys.argv[3:]:
        write(Path(sys.argv[1]), wanted, Path(sys.argv[2]))
