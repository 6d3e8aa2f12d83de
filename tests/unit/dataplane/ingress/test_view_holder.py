from __future__ import annotations

import asyncio

from dataplane.ingress.view_holder import ViewHolder
from dataplane.snapshot.activation import View
from tests import views


def some_view() -> View:
    return views.view(views.snapshot())


async def test_waiters_get_a_view_different_from_theirs() -> None:
    holder, first, second = ViewHolder(), some_view(), some_view()
    waiting = asyncio.create_task(holder.changed(None))
    await asyncio.sleep(0)
    holder.swap(first)
    assert await waiting is first
    assert await holder.changed(None) is first
    waiting = asyncio.create_task(holder.changed(first))
    await asyncio.sleep(0)
    holder.swap(first)
    await asyncio.sleep(0)
    assert not waiting.done()
    holder.swap(second)
    assert await waiting is second


async def test_a_cancelled_waiter_is_removed() -> None:
    holder = ViewHolder()
    waiting = asyncio.create_task(holder.changed(None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    holder.swap(some_view())
    assert holder._waiters == set()


def test_listeners_are_called_until_they_unsubscribe() -> None:
    holder, seen = ViewHolder(), list[View]()
    leave = holder.subscribe(seen.append)
    view = some_view()
    holder.swap(view)
    leave()
    holder.swap(some_view())
    assert seen == [view]
