"""The training loop of the tiny models."""

from __future__ import annotations

from collections.abc import Callable

import torch

STEPS_MAX = 600
LOSS_MAX = 0.01
LEARNING_RATE = 2e-3


def train(model: torch.nn.Module, loss_of: Callable[[int], torch.Tensor]) -> None:
    """Train until the loss is small. `loss_of` returns the loss of a step, counted from 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for step in range(STEPS_MAX):
        loss = loss_of(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < LOSS_MAX:
            break
    model.eval()
