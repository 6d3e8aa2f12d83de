"""Mutated adapter directories: registration's verdict is compared with that of vLLM's own loader.

`python -m tests.adapter_fuzz COUNT SEED` runs it with any size (`make fuzz-adapters`).
"""
