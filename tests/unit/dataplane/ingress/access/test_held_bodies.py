"""How many bytes of bodies a process holds, and how they are shared."""

from __future__ import annotations

import contextlib

import pytest

from dataplane.ingress.access.held_bodies import HeldBodies
from dataplane.openai import errors as openai_errors


def fill(bodies: HeldBodies, caller: str, stack: contextlib.ExitStack) -> int:
    """Let a caller hold as many bytes as it may. Returns their number."""
    count = 0
    with contextlib.suppress(openai_errors.BodiesFull, openai_errors.BodiesOfCallerFull):
        while True:
            stack.enter_context(bodies.of(caller)).grow_to(1)
            count += 1
    return count


def test_a_caller_holds_as_many_bytes_as_stay_free() -> None:
    bodies = HeldBodies(600)
    with contextlib.ExitStack() as stack:
        assert [fill(bodies, caller, stack) for caller in "abc"] == [300, 150, 75]
        assert bodies.total == 525
    assert bodies.total == 0


def test_a_caller_that_takes_everything_it_can_leaves_room_for_the_next() -> None:
    bodies = HeldBodies(1000)
    with contextlib.ExitStack() as stack:
        fill(bodies, "greedy", stack)
        with pytest.raises(openai_errors.BodiesOfCallerFull):
            stack.enter_context(bodies.of("greedy")).grow_to(1)
        stack.enter_context(bodies.of("other")).grow_to(250)


def test_a_caller_without_another_body_is_told_that_the_server_is_full() -> None:
    bodies = HeldBodies(1000)
    with bodies.of("a") as first, bodies.of("b") as second:
        first.grow_to(500)
        with pytest.raises(openai_errors.BodiesFull, match=r"251 more; it holds at most 1000"):
            second.grow_to(251)
        second.grow_to(250)
        assert bodies.total == 750


def test_a_body_that_grows_counts_once_and_is_given_back_after_a_refusal() -> None:
    bodies = HeldBodies(1000)
    with bodies.of("a") as body:
        body.grow_to(100)
        body.grow_to(400)
        body.grow_to(50)
        assert bodies.total == 400
        with pytest.raises(openai_errors.BodiesOfCallerFull, match="hold 400 bytes"):
            body.grow_to(501)
    assert bodies.total == 0
    with bodies.of("a") as body:
        body.grow_to(500)
