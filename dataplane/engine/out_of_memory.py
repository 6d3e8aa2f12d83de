"""Recognises that an engine ran out of memory."""

from __future__ import annotations

import re
from pathlib import Path

from dataplane.errors import EngineStartError

OUT_OF_MEMORY = "OUT_OF_MEMORY"

_OUT_OF_MEMORY_WORDS = re.compile(
    r"out of memory"  # torch on CUDA
    r"|can(?:no|')t allocate memory"  # torch on the CPU, libc
    r"|\bMemoryError\b"
    r"|no available memory for the cache"  # vLLM: the weights leave nothing
    r"|larger than the available KV cache\s+memory"
    r"|is less than (?:desired \w+|requested) memory"
    r"|running low on memory",  # Ray's memory monitor
    re.IGNORECASE,
)
_VMSTAT = Path("/proc/vmstat")
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def start_failure_reason(message: str) -> str:
    """The reason of a failed start, from the engine's words.

    Returns:
        OUT_OF_MEMORY if they say so, else ENGINE_START_FAILED.
    """
    return OUT_OF_MEMORY if _OUT_OF_MEMORY_WORDS.search(message) else EngineStartError.reason


def kernel_kills(vmstat: Path = _VMSTAT) -> int:
    """How many processes this machine's kernel has killed because memory ran out.

    0 where the kernel does not count them.
    """
    found = _OOM_KILLS.search(vmstat.read_text()) if vmstat.exists() else None
    return int(found[1]) if found else 0
