from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.engine.out_of_memory import kernel_kills, start_failure_reason


@pytest.mark.parametrize(
    "message",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 70368744177664 bytes. Error code 12 (Cannot allocate memory)",
        "OSError: [Errno 12] Cannot allocate memory",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "ValueError: To serve at least one request with the model's max seq len (8192), (1.12 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (0.5 GiB).",
        "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) is less than desired GPU memory utilization",
        "ValueError: Available memory on node 0 (17.6/23.4 GiB) on kv cache allocation is less than requested memory "
        "for kv (65536.0 GiB). Decrease --kv-cache-memory-bytes",
        "A replica failed to start: 1 worker(s) were killed due to the node running low on memory.",
        "MemoryError",
    ],
)
def test_messages_about_memory_are_recognised(message: str) -> None:
    assert start_failure_reason(message) == "OUT_OF_MEMORY"


@pytest.mark.parametrize(
    "message",
    [
        "no luck",
        "The actor died unexpectedly. Some common causes include: (1) the process was killed by the OOM killer due to "
        "high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly",
        "ValueError: memory_bytes: got -1",
    ],
)
def test_other_messages_are_not(message: str) -> None:
    assert start_failure_reason(message) == "ENGINE_START_FAILED"


def test_kills_are_read_from_the_kernels_counter(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    assert kernel_kills(vmstat) == 0
    vmstat.write_text("pgfault 12\noom_kill 3\npgmajfault 4\n")
    assert kernel_kills(vmstat) == 3
    vmstat.write_text("pgfault 12\n")
    assert kernel_kills(vmstat) == 0
