"""Turns are bounded for each peer and in all, and nobody is forgotten or remembered for ever."""

from __future__ import annotations

import asyncio
from collections import Counter

from controlplane.rpc.turns import Turns


async def test_each_peer_and_all_have_so_many_at_a_time_and_everybody_comes_in() -> None:
    turns = Turns(in_all_max=5, per_peer_max=2)
    now, most, served = Counter[str](), Counter[str](), Counter[str]()

    async def visit(peer: str) -> None:
        async with turns.turn(peer):
            for who in (peer, "all"):
                now[who] += 1
                most[who] = max(most[who], now[who])
            await asyncio.sleep(0)
            now.subtract((peer, "all"))
            served[peer] += 1

    peers = ("a", "b", "c", "d")
    await asyncio.gather(*(visit(peer) for peer in peers for _ in range(10)))
    assert served == dict.fromkeys(peers, 10)
    assert most == {**dict.fromkeys(peers, 2), "all": 5}
    assert turns._of_peer == {}


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    turns = Turns(in_all_max=1, per_peer_max=1)
    async with turns.turn("a"):
        waiting = [asyncio.create_task(_enter(turns, peer)) for peer in ("a", "b")]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert turns._of_peer == {}
    await asyncio.wait_for(_enter(turns, "b"), 1)


async def _enter(turns: Turns, peer: str) -> None:
    async with turns.turn(peer):
        pass
