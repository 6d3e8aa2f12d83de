"""Makes vLLM 0.32's CPU workers answer requests without an adapter from the base model.

vLLM's torch operators take each row's weights from the slot of its adapter. A row without an
adapter has slot -1, which torch reads as the last slot. So requests for the base model would be
answered with the adapter that this slot holds or has held. vLLM's GPU kernels skip such rows. The
wrapped torch operators do the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

_OPERATORS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
"""Of `vllm.lora.ops.torch_ops.lora_ops`. The others there (`sgmv_*`) call these."""


def skip_rows_without_adapter() -> None:
    """Wrap vLLM's operators in this process, unless they skip rows without an adapter themselves.

    Raises:
        RuntimeError: they still apply an adapter to such rows, so this is another vLLM than the one
            that this module was written for.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    if _only_rows_with_adapter_change():
        return
    for name in _OPERATORS:
        operator = skipping(getattr(lora_ops, name))
        setattr(lora_ops, name, operator)
        setattr(punica_cpu, name, operator)
    if not _only_rows_with_adapter_change():
        raise RuntimeError("vLLM would answer for the base model with an adapter, and Broadsheet cannot prevent it")


def skipping(operator: Callable[..., None]) -> Callable[..., None]:
    """`operator`, but it leaves the output's rows of slot -1 unchanged.

    Shapes: `inputs` (rows, in), `weights` (slots, 1, out, in) or (slots, out, in), `output` (rows,
    …), `slots` (rows,).
    """

    @functools.wraps(operator)
    def skip(inputs: Any, weights: Any, output: Any, slots: Any, *args: Any, **kwargs: Any) -> None:
        chosen = slots >= 0
        if chosen.all():
            operator(inputs, weights, output, slots, *args, **kwargs)
        elif chosen.any():
            rows = output[chosen]
            operator(inputs[chosen], weights, rows, slots[chosen], *args, **kwargs)
            output[chosen] = rows

    return skip


def _only_rows_with_adapter_change() -> bool:
    """Whether vLLM's operators change only rows that have an adapter.

    Tried on two rows, of which the first has the adapter in the only slot.
    """
    import torch
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    size = 8
    x, weights = torch.ones(2, size), torch.ones(1, 1, size, size)
    wrapper = PunicaWrapperCPU(max_num_batched_tokens=2, max_batches=2, device="cpu")

    def changed_rows(apply: Callable[[Any], None]) -> list[bool]:
        output = torch.zeros(2, size)
        apply(output)
        changed: list[bool] = output.any(dim=1).tolist()
        return changed

    found = []
    for is_prefill in (True, False):
        # The fields of vLLM's LoRAMapping, whose import would load all layers. The first row has
        # adapter 1, the second none.
        mapping = SimpleNamespace(index_mapping=(1, 0), prompt_mapping=(1, 0), is_prefill=is_prefill)
        wrapper.update_metadata(mapping, lora_index_to_id=[1], max_loras=2, vocab_size=size)
        found += [
            changed_rows(lambda y: wrapper.add_lora_linear(y, x, (weights,), (weights,), 1.0, (size,))),
            changed_rows(lambda y: wrapper.add_lora_embedding(y, x, weights)),
            changed_rows(lambda y: wrapper.add_lora_logits(y, x, weights, weights, 1.0)),
        ]
    return all(changed == [True, False] for changed in found)
