"""What both planes must find alike in the files of a LoRA adapter. Pure.

It owns the digest of an adapter, the header of safetensors, and the checks of scales and weights.
It imports nothing of this project.
"""
