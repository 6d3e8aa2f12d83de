"""Verifies LoRA adapters before they are registered: `verification.py` has all the checks in order.

It owns what makes an adapter servable: its files, its configuration, its tensors and its base. It
may import `controlplane.errors` and `protocol`.
"""
