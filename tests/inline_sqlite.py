"""SQLite's driver without threads: statements take half the time, always in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import aiosqlite
import pytest

from controlplane.store.databases import sqlite as store_sqlite


class _Inline:
    """Replaces the queue to a connection's thread: runs each item at once."""

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        future, function = item
        try:
            result = function()
        except Exception as error:
            if future is None:
                raise
            future.set_exception(error)
        else:
            if future is not None:
                future.set_result(result)


class _NoThread:
    daemon = True

    def start(self) -> None:
        """Nothing to start."""


class _InlineExecutor(Executor):
    """Replaces the thread of the connection that writes: runs each function at once."""

    def __init__(self, *arguments: object, **named: object) -> None:
        """Nothing to prepare."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done = Future[Any]()
        try:
            done.set_result(function(*arguments, **named))
        except BaseException as error:
            done.set_exception(error)
        return done


@contextmanager
def inline_sqlite() -> Iterator[None]:
    """Let the connections that are made in the block run their statements where they are awaited.

    A task never waits in a statement then, so tasks only switch where the test lets them.
    """
    original = aiosqlite.Connection.__init__

    def init(self: aiosqlite.Connection, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._tx = _Inline()  # type: ignore[assignment]  # all that is used of the queue
        self._thread = _NoThread()  # type: ignore[assignment]  # all that is used of the thread

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiosqlite.Connection, "__init__", init)
        patch.setattr(store_sqlite, "ThreadPoolExecutor", _InlineExecutor)
        yield
