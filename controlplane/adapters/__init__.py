"""Reads and checks the files of LoRA adapters.

It owns what makes an adapter servable: its configuration, its tensors and its base. It may import
`controlplane.catalog` and `protocol`.
"""
