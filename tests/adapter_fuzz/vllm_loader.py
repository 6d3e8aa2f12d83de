"""vLLM's own loader of adapters, in this process, on the CPU, without an engine."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.engine.vllm.worker_extension import unmatched

RANK_MAX = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """What vLLM made of an adapter."""

    error: str = ""
    """Why it refused it. Empty: it took it."""
    unmatched: tuple[str, ...] = ()
    """Modules that it passed over without a word."""

    @property
    def in_full(self) -> bool:
        """Whether it serves every matrix."""
        return not self.error and not self.unmatched


class VllmLoader:
    """A model's layers with vLLM's LoRA manager, as one of its workers has them."""

    def __init__(self, base: Path, **engine_args: object) -> None:
        """
        Args:
            base: Directory of the base model. Its weights are not read.
            engine_args: Arguments of vLLM's engine.
        """
        os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        warnings.simplefilter("ignore")
        import torch
        from vllm.config import set_current_vllm_config
        from vllm.distributed.parallel_state import (
            ensure_model_parallel_initialized,
            init_distributed_environment,
            model_parallel_is_initialized,
        )
        from vllm.engine.arg_utils import EngineArgs
        from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
        from vllm.model_executor.model_loader.utils import initialize_model

        logging.disable(logging.ERROR)
        config = EngineArgs(
            model=str(base),
            enable_lora=True,
            max_loras=1,
            max_lora_rank=RANK_MAX,
            enforce_eager=True,
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=32,
            **engine_args,
        ).create_engine_config()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with set_current_vllm_config(config):
            if not model_parallel_is_initialized():
                init_distributed_environment(1, 0, f"tcp://127.0.0.1:{port}", 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
            model: Any = initialize_model(vllm_config=config)
            self._manager = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
            self._manager.create_lora_manager(model, config)
        self._id = 0

    def load(self, directory: Path) -> Loaded:
        """Have vLLM load an adapter, and unload it again."""
        from vllm.lora.request import LoRARequest

        self._id += 1
        manager = self._manager._adapter_manager
        try:
            self._manager.add_adapter(LoRARequest(f"a{self._id}", self._id, str(directory)))
            return Loaded(unmatched=tuple(unmatched(manager, self._id)))
        except Exception as error:
            return Loaded(error=f"{type(error).__name__}: {error}"[:500] or "?")
        finally:
            self._manager.remove_adapter(self._id)


def task_defaults() -> Sequence[tuple[str, tuple[str, str]]]:
    """What vLLM takes from the ending of an architecture's name: runner and conversion."""
    from vllm.config.model import iter_architecture_defaults

    return tuple(iter_architecture_defaults())
