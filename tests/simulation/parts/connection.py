"""A Sync stream between a data plane and a control plane."""

from __future__ import annotations

from collections.abc import Callable

from broadsheet.v1 import snapshot_service_pb2 as pb
from tests.simulation.virtual.clock import Clock
from tests.simulation.virtual.network import Pipe


class Connection:
    """Two pipes. Each end closes it, or learns later that it is broken."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.name = name
        self.to_server: Pipe[pb.SyncRequest] = Pipe(clock, f"{name} up")
        self.to_client: Pipe[pb.SyncResponse] = Pipe(clock, f"{name} down")
        self.on_broken_client: Callable[[], None] = lambda: None
        self.on_broken_server: Callable[[], None] = lambda: None
        self._clock = clock

    def break_off(self, *, client_notices_s: float | None, server_notices_s: float | None, late: bool = False) -> None:
        """Nothing gets through any more.

        Args:
            client_notices_s: When the data plane's end learns of it; None: it has gone itself.
            server_notices_s: When the control plane's end does; None: it has gone itself.
            late: Whether what the data plane has sent arrives all the same.
        """
        self.to_client.cut()
        if not late:
            self.to_server.cut()
        if client_notices_s is not None:
            self._clock.after(client_notices_s, self.on_broken_client)
        if server_notices_s is not None:
            self._clock.after(server_notices_s, self.on_broken_server)

    def duplicate_next_status(self) -> None:
        """Let the next Status arrive twice."""
        self.to_server.twice = True
