"""Who acts, and from where."""

from __future__ import annotations

import asyncio

import pytest

from controlplane import principal
from controlplane.principal import ANONYMOUS, HERE, Origin, Principal

ALICE = Principal(name="alice", role="admin", authentication="token")
BOB = Principal(name="bob", role="viewer", authentication="oidc")
DESK = Origin(address="10.0.0.1:5000", request_id="r")


def test_nobody_acts_from_here_unless_it_is_said() -> None:
    assert (principal.current(), principal.origin()) == (ANONYMOUS, HERE)


def test_a_block_says_who_and_ends_also_with_an_error() -> None:
    def fail() -> None:
        with principal.acting_as(ALICE), principal.called_from(DESK):
            assert (principal.current(), principal.origin()) == (ALICE, DESK)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (principal.current(), principal.origin()) == (ANONYMOUS, HERE)


async def test_concurrent_tasks_do_not_see_each_other_and_their_children_do() -> None:
    async def act(who: Principal) -> Principal:
        with principal.acting_as(who):
            await asyncio.sleep(0)
            child = asyncio.create_task(asyncio.sleep(0, principal.current()))
            assert await child == who
            return principal.current()

    assert list(await asyncio.gather(act(ALICE), act(BOB))) == [ALICE, BOB]
    assert principal.current() == ANONYMOUS
