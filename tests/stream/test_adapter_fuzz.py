"""Registration and vLLM's own loader agree on mutated adapters. `make fuzz-adapters` tries more."""

from __future__ import annotations

import asyncio
import sys

import pytest

COUNT = 4000
"""Adapters. They take 12 s, and the import of vLLM another 15 s."""


@pytest.mark.timeout(180)
async def test_every_disagreement_with_vllms_loader_is_explained() -> None:
    # In a process of its own: what vLLM imports and changes would stay for the tests that follow.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.adapter_fuzz", str(COUNT), "20261129"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, f"{out.decode()}\n{err.decode()[-4000:]}"
