"""The present principal, and the origin of its call."""

from __future__ import annotations

import asyncio

import pytest

from controlplane import principal
from controlplane.principal import ANONYMOUS, HERE, Origin, Principal

ALICE = Principal(name="alice", role="admin", authentication="token")
BOB = Principal(name="bob", role="viewer", authentication="oidc")
DESK = Origin(address="10.0.0.1:5000", request_id="r")


def test_without_a_block_the_principal_is_anonymous() -> None:
    assert (principal.current(), principal.origin()) == (ANONYMOUS, HERE)


def test_a_block_sets_the_principal_and_ends_with_an_error_too() -> None:
    def fail() -> None:
        with principal.acting_as(ALICE), principal.called_from(DESK):
            assert (principal.current(), principal.origin()) == (ALICE, DESK)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (principal.current(), principal.origin()) == (ANONYMOUS, HERE)


async def test_tasks_inherit_the_principal_but_do_not_share_it() -> None:
    async def act(who: Principal) -> Principal:
        with principal.acting_as(who):
            await asyncio.sleep(0)
            child = asyncio.create_task(asyncio.sleep(0, principal.current()))
            assert await child == who
            return principal.current()

    assert list(await asyncio.gather(act(ALICE), act(BOB))) == [ALICE, BOB]
    assert principal.current() == ANONYMOUS
