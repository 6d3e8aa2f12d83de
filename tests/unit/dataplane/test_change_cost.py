"""A change of one adapter does as much work in a large catalog as in a small one.

Counted are the steps of Python's interpreter and the bytes that are allocated, because times on a
shared machine say little. Walking the catalog takes steps or, at the speed of C, memory.
"""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from dataplane.snapshot import entry_checks
from dataplane.snapshot.entry_checks import check_versioned
from tests.changed_plane import AgentPart, IngressPart, catalog, one_adapter_changes
from tests.raw import position
from tests.unit.dataplane.relay.relay_world import RelayWorld

SMALL, LARGE = 1_000, 10_000
_RATIO_MAX = 1.2
"""A larger catalog has deeper searches, and more blocks to copy references to."""
_BYTES_FOR_EACH_ENTRY_MAX = 4
"""A copy of a list of all entries takes 8 bytes for each."""


class Work:
    """What is counted while a part works."""

    def __init__(self) -> None:
        self.steps = 0
        self.bytes = 0

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.steps += event == "opcode"
        return self._trace

    def __enter__(self) -> Work:
        tracemalloc.start()
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)
        self.bytes = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


async def changed(count: int) -> tuple[Work, Work]:
    """The work of the agent and of an ingress replica for the second of two changes."""
    relays = RelayWorld()
    agent, ingress = AgentPart(relays), IngressPart(relays)
    entries = catalog(count)
    held = await agent.start(position(entries), entries)
    await ingress.follow()
    first, second = one_adapter_changes(held, [7, 8])
    await agent.change(*first)
    await ingress.follow()
    agent_work, ingress_work = Work(), Work()
    # Another task than this one, because a frame that runs already is not traced.
    with agent_work:
        await asyncio.create_task(agent.change(*second))
    with ingress_work:
        await asyncio.create_task(ingress.follow())
    assert ingress.views.current is not None
    assert ingress.views.current.snapshot == agent.snapshot
    await ingress.app.aclose()
    return agent_work, ingress_work


@pytest.fixture(autouse=True)
def in_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this thread is traced."""

    async def inline(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", inline)


@pytest.fixture
def unvalidated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The entries that are validated. Those of the first snapshot are not, which saves time."""
    validated: list[str] = []

    def noted(message: Any, policy: Any) -> Any:
        if message.revision.catalog_revision <= 1:
            return None
        validated.append(message.name)
        return check_versioned(message, policy)

    monkeypatch.setattr(entry_checks, "check_versioned", noted)
    return validated


async def test_one_change_costs_the_same_in_a_large_catalog(unvalidated: list[str]) -> None:
    small, large = await changed(SMALL), await changed(LARGE)
    for part, few, many in zip(("agent", "ingress"), small, large, strict=True):
        shown = (part, few.steps, many.steps, few.bytes, many.bytes)
        assert few.steps > 1_000, shown
        assert many.steps < few.steps * _RATIO_MAX, shown
        assert many.bytes - few.bytes < (LARGE - SMALL) * _BYTES_FOR_EACH_ENTRY_MAX, shown
    assert unvalidated == ["models/m7/adapters/a7", "models/m8/adapters/a8"] * 2
