"""Accepting from a listener."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from dataplane.ingress.sharing import accept_loop
from dataplane.ingress.sharing.accept_loop import AcceptLoop


async def test_too_many_open_files_pause_it_and_the_connection_is_accepted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accept_loop, "_PAUSE_S", 0.05)
    got: list[socket.socket] = []
    tries = 0

    class Poor(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise OSError(errno.EMFILE, "too many open files")
            return super().accept()

    with Poor() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        loop = AcceptLoop(listener, got.append)
        loop.start()
        with socket.create_connection(listener.getsockname()):
            await asyncio.sleep(0.03)
            assert (tries, got) == (1, [])  # the kernel would wake it again and again
            await asyncio.sleep(0.1)
            assert len(got) == 1
            assert not got[0].getblocking()
        loop.stop()
        got[0].close()


async def test_other_work_gets_its_turn_between_many_connections() -> None:
    got: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.setblocking(False)
        loop = AcceptLoop(listener, got.append)
        callers = [socket.create_connection(listener.getsockname()) for _ in range(50)]
        assert [loop.accept_waiting(), loop.accept_waiting(), loop.accept_waiting()] == [32, 18, 0]
        for one in (*callers, *got):
            one.close()
