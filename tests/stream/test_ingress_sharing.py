"""Ingress replicas of a node, as processes of their own, share their connections evenly."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataplane.openai.http_limits import HttpLimits
from tests.certificates import Authority
from tests.node_replicas import Connection, Replicas, running_node

pytestmark = pytest.mark.timeout(60)


def test_eight_connections_on_four_replicas_are_two_each() -> None:
    with running_node(4) as node:
        connections = [node.connect() for _ in range(8)]
        assert node.spread(connections) == [2, 2, 2, 2]
        more = [node.connect() for _ in range(8)]  # opened before the first one is used
        assert node.spread(connections + more) == [4, 4, 4, 4]


def test_a_replica_that_starts_gets_the_next_connections() -> None:
    with running_node(1) as node:
        connections = [node.connect() for _ in range(3)]
        assert node.spread(connections) == [3]
        node.start()
        connections += [node.connect() for _ in range(3)]
        assert node.spread(connections) == [3, 3]


def test_kept_connections_in_use_move_to_a_replica_that_starts_and_no_request_fails() -> None:
    with running_node(1) as node, ThreadPoolExecutor(6) as threads:
        ends = threading.Event()
        connections = [node.connect(again=True) for _ in range(6)]

        def use(connection: Connection) -> int:
            count = 0
            while not ends.is_set():
                connection.ask("/soon")
                count += 1
            return count

        used = [threads.submit(use, connection) for connection in connections]
        try:
            node.start()
            node.until(lambda: {node.shown(pid).connections for pid in node.running} == {3})
        finally:
            ends.set()
        assert all(one.result() > 1 for one in used)
        assert node.spread(connections) == [3, 3]


def test_idle_connections_are_left_alone_when_a_replica_starts() -> None:
    with running_node(1) as node:
        connections = [node.connect() for _ in range(4)]
        assert node.spread(connections) == [4]
        node.start()
        time.sleep(1.2)
        assert node.spread(connections) == [4, 0]


def test_what_closed_counts_no_more() -> None:
    with running_node(2) as node:
        connections = [node.connect() for _ in range(6)]
        first = connections[0].ask()
        for connection in [connection for connection in connections if connection.ask() == first]:
            connection.close()
            connections.remove(connection)
        node.until(lambda: sum(node.shown(pid).connections for pid in node.running) == 3)
        connections += [node.connect() for _ in range(3)]
        assert node.spread(connections) == [3, 3]


def test_a_hanging_replica_gets_nothing_and_keeps_nothing() -> None:
    with running_node(1) as node:
        (acceptor,) = node.running
        stopped = node.start_beside()
        kept = [node.connect() for _ in range(2)]
        assert node.spread(kept) == [1, 1]
        os.kill(stopped, signal.SIGSTOP)
        late = [node.connect() for _ in range(6)]  # the first ones are handed to it
        assert {connection.ask() for connection in late} == {acceptor}
        taken_back = node.shown(acceptor).taken_back
        assert taken_back > 0
        time.sleep(1.1)
        late += [node.connect() for _ in range(4)]
        assert late[-1].ask() == acceptor
        assert node.shown(acceptor).taken_back == taken_back  # nothing is handed to it any more
        os.kill(stopped, signal.SIGCONT)
        assert node.spread(kept + late) == [11, 1]  # it has begun with none of what was taken back
        node.until(lambda: node.shown(acceptor).siblings == 1)
        assert node.connect().ask() == stopped  # it counts again


def test_a_killed_replica_loses_no_connection_that_it_has_not_begun_with() -> None:
    with running_node(1) as node:
        killed = node.start_beside()
        os.kill(killed, signal.SIGSTOP)  # what is handed to it stays on the way
        connections = [node.connect() for _ in range(6)]
        node.end(killed, signal.SIGKILL)
        assert node.spread(connections) == [6]
        assert node.spread([node.connect() for _ in range(4)]) == [4]


def test_a_killed_acceptor_loses_no_connection_that_it_has_handed_over() -> None:
    with running_node(1) as node:
        (acceptor,) = node.running
        other = node.start_beside()
        busy = node.connect()
        assert busy.ask() == acceptor
        os.kill(other, signal.SIGSTOP)
        handed = node.connect()
        node.until(lambda: node.shown(acceptor).handed_over == 1)
        node.end(acceptor, signal.SIGKILL)
        os.kill(other, signal.SIGCONT)
        assert handed.ask() == other


def test_a_full_replica_is_handed_nothing_and_limits_hold_where_a_connection_lives() -> None:
    with running_node(2, limits=HttpLimits(max_connections=2)) as node:
        connections = [node.connect() for _ in range(4)]
        assert node.spread(connections) == [2, 2]
        with pytest.raises(AssertionError, match="too_many_connections"):
            node.connect().ask()
        assert node.spread(connections) == [2, 2]


def test_tls_is_spoken_with_whoever_has_the_connection(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("server")
    with running_node(2, tls=(files.cert, files.key)) as node:
        assert node.spread([node.connect() for _ in range(6)]) == [3, 3]


def test_handshakes_that_do_not_end_are_bounded_by_number(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("server")
    with running_node(1, tls=(files.cert, files.key), limits=HttpLimits(max_connections=2)) as node:
        (pid,) = node.running
        silent = [socket.create_connection(("127.0.0.1", node.node.port), timeout=5) for _ in range(3)]
        assert silent[2].recv(1) == b""
        assert node.shown(pid).connections == 2
        for one in silent:
            one.close()
        node.until(lambda: node.shown(pid).connections == 0)
        assert node.connect().ask() == pid


def test_no_connection_is_lost_while_each_replica_is_replaced() -> None:
    with running_node(2) as node, _Callers(node) as callers:
        for old in tuple(node.running):
            node.start()
            node.end(old, signal.SIGTERM)
        time.sleep(0.1)
    assert callers.failures == []
    assert callers.answered > 100


def test_a_stopping_replica_finishes_its_requests_and_its_listener_goes_on() -> None:
    with running_node(2) as node:
        slow = [node.connect() for _ in range(2)]
        threads = [threading.Thread(target=connection.ask, args=("/slow",)) for connection in slow]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        for count in range(3):  # its listener is used again by who comes in its place
            node.end(next(iter(node.running)), signal.SIGTERM)
            assert node.listeners() == 2, count
            node.start()
            assert node.listeners() == 2, count
        for thread in threads:
            thread.join()


class _Callers:
    """Callers that open a connection for each request, as fast as they can."""

    def __init__(self, node: Replicas) -> None:
        self._node = node
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]
        self.failures: list[str] = []
        self.answered = 0

    def __enter__(self) -> _Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._ends.is_set():
            try:
                with self._node.connect() as connection:
                    connection.ask()
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
