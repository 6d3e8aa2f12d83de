"""vLLM's own operators, with and without what its workers get on CPUs, held against plain loops."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dataplane.engine.vllm import cpu_lora

BGMV = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
OPERATORS = (*BGMV, "sgmv_shrink", "sgmv_expand", "sgmv_expand_slice")
SLOTS, RANK, WIDTH = 3, 4, 16
ROWS_SLOTS = ([0, 1, 2], [0, -1, 2], [-1, 2, -1, 1, -1, 0, 2], [2, -1], [-1, -1], [-1], [2])
"""The slot of each row: all slots are full, and without an adapter it is -1."""

Operators = tuple[Any, Any]
"""vLLM's modules of the operators and of what calls them."""


@pytest.fixture(scope="module")
def imported() -> Operators:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.lora.ops.torch_ops import lora_ops
        from vllm.lora.punica_wrapper import punica_cpu
    return lora_ops, punica_cpu


@pytest.fixture
def operators(imported: Operators) -> Iterator[Operators]:
    """As vLLM has them; what a test makes of them goes in the end."""
    with pytest.MonkeyPatch.context() as patch:
        for module in imported:
            for name in BGMV:
                patch.setattr(module, name, getattr(module, name))
        yield imported


@pytest.fixture
def skipping(operators: Operators) -> Operators:
    """With what the workers get."""
    cpu_lora.skip_rows_without_adapter()
    return operators


def run(lora_ops: Any, operator: str, slots: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What `operator` makes of an output with something in it, and what a loop over the rows makes
    of it."""
    random = torch.Generator().manual_seed(len(slots))
    rows = len(slots)
    width_in, width_out = (WIDTH, RANK) if "shrink" in operator else (RANK, WIDTH)
    weights = torch.randn(SLOTS, 1, width_out, width_in, generator=random)
    inputs = torch.randn(rows, width_in, generator=random)
    got = torch.randn(rows, 2 * width_out if "slice" in operator else width_out, generator=random)
    expected = got.clone()
    offset = width_out if "slice" in operator else 0
    for row, slot in enumerate(slots):
        if slot >= 0:
            product = weights[slot, 0] @ inputs[row]
            part = expected[row, offset : offset + width_out]
            part.copy_(0.5 * product if "shrink" in operator else part + product)

    last: list[object] = [0.5] if "shrink" in operator else [True]
    if "slice" in operator:
        last = [width_out, width_out, True]
    lengths = torch.ones(rows, dtype=torch.long)
    # The sgmv operators take sequences: of one row each here.
    sequences = [torch.arange(rows), lengths, torch.tensor(slots), rows, 1, rows]
    where = sequences if operator.startswith("sgmv") else [torch.tensor(slots)]
    getattr(lora_ops, operator)(inputs, weights, got, *where, *last)
    return got, expected


@pytest.mark.parametrize("operator", OPERATORS)
def test_only_rows_with_an_adapter_are_changed(skipping: Operators, operator: str) -> None:
    for slots in ROWS_SLOTS:
        got, expected = run(skipping[0], operator, slots)
        torch.testing.assert_close(got, expected)
        without = torch.tensor(slots) < 0
        assert torch.equal(got[without], expected[without])


@pytest.mark.parametrize("operator", OPERATORS)
def test_unwrapped_operators_apply_the_last_slots_adapter(operators: Operators, operator: str) -> None:
    """When this fails, vLLM has fixed it, and `cpu_lora` can be deleted."""
    got, expected = run(operators[0], operator, [0, -1, 2])
    torch.testing.assert_close(got[[0, 2]], expected[[0, 2]])
    assert not torch.allclose(got[1], expected[1])


def test_nothing_in_an_adapter_reaches_rows_without_one(skipping: Operators) -> None:
    """Not even by a product with zero."""
    output = torch.zeros(2, 4)
    weights = torch.full((1, 1, 4, 4), torch.nan)
    skipping[1].bgmv_expand(torch.zeros(2, 4), weights, output, torch.tensor([0, -1]))
    assert output.isnan().any(dim=1).tolist() == [True, False]


def test_operators_that_skip_already_are_not_wrapped(skipping: Operators) -> None:
    before = skipping[0].bgmv_expand
    cpu_lora.skip_rows_without_adapter()
    assert skipping[0].bgmv_expand is before


def test_operators_that_cannot_be_wrapped_are_an_error(operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_lora, "skipping", lambda operator: operator)
    with pytest.raises(RuntimeError, match="answer for the base model with an adapter"):
        cpu_lora.skip_rows_without_adapter()
