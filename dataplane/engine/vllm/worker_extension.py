"""What Broadsheet adds to vLLM's workers, which run in processes of their own.

It imports nothing of vLLM: its methods get vLLM's objects from the worker.
"""

from __future__ import annotations

from typing import Any

from dataplane.engine.vllm import cpu_lora

WORKER_EXTENSION = "dataplane.engine.vllm.worker_extension.WorkerExtension"


class WorkerExtension:
    """Mixed into vLLM's workers (`worker_extension_cls`), for calls by `collective_rpc`."""

    model_runner: Any

    def skip_rows_without_adapter(self) -> None:
        """Call the function of this name."""
        cpu_lora.skip_rows_without_adapter()

    def unmatched_modules(self, lora_id: int) -> list[str]:
        """The modules of a loaded adapter that this worker does not have."""
        return unmatched(self.model_runner.lora_manager._adapter_manager, lora_id)


def unmatched(manager: Any, lora_id: int) -> list[str]:
    """The modules of a loaded adapter that vLLM 0.32 looks up for none of its own modules.

    It passes over them without a word, and answers as if they were not in the adapter.

    Args:
        manager: vLLM's LoRAModelManager.
        lora_id: The adapter's id in it.
    """
    adapter = manager.get_adapter(lora_id)
    if adapter is None:
        return []  # others have taken its place meanwhile
    # The parts of a packed module, such as q_proj of qkv_proj, may be left after they were packed.
    known = {*manager.modules, *(part for parts in manager.packed_modules.values() for part in parts)}
    if manager.is_pooling_model:
        known |= {name.removeprefix("model.") for name in known}
    # The matrices of experts are stacked under other names than those of their module.
    return [name for name in adapter.loras if name not in known and ".experts" not in name]
