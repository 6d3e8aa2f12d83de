"""Convert a GGUF file to a Hugging Face safetensors directory. `prepare_model` runs this in a
process of its own."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(gguf: Path, destination: Path) -> None:
    """Write bfloat16 weights, configuration, tokenizer and chat template of `gguf` to the new
    folder `destination`."""
    # Without `dequantize` the model keeps GGUF's packed tensors, which can't be saved.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise SystemExit(f"{gguf.name} has no chat template")
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
