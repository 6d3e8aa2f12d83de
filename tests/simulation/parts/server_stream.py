"""The control plane's end of a stream: what `controlplane.push.sync` does, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Identity
from controlplane.errors import DomainError
from controlplane.push.stream import Stream
from controlplane.push.subscription.machine import Subscription
from controlplane.push.subscription.states import State
from controlplane.push.subscription.timing import Limits
from controlplane.push.subscription.transfer import ChangeRequest, PieceRequest
from controlplane.push.subscription.violations import ProtocolViolation
from controlplane.push.sync import WATCH_S
from tests.simulation.parts.connection import Connection
from tests.simulation.virtual.clock import Timer
from tests.simulation.virtual.tasks import run_now

if TYPE_CHECKING:
    from tests.simulation.parts.control_plane import ControlPlane

LIMITS = Limits()
DATABASE_S = (0.0, 0.05)
"""How long the database takes to admit a stream: from, to."""


class Listener(Protocol):
    """Who is told what happens on streams."""

    def sent(self, stream: ServerStream, response: pb.SyncResponse) -> None:
        """A message was written to a data plane."""

    def received(self, stream: ServerStream, request: pb.SyncRequest) -> None:
        """A message of a data plane was taken."""

    def violated(self, stream: ServerStream, error: ProtocolViolation) -> None:
        """A data plane has sent what it must not send."""


class _Wake:
    """In the place of the event that wakes a stream's writer."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.set = wake


class ServerStream:
    """A stream from its first message to its end."""

    def __init__(self, plane: ControlPlane, connection: Connection) -> None:
        self.plane = plane
        self.connection = connection
        self.stream = Stream(Subscription(head=plane.fan_out.floor, limits=LIMITS, now_s=plane.clock.now_s))
        self.stream.wake = _Wake(self._wake)  # type: ignore[assignment]
        self._random = plane.clock.random(f"{connection.name} database")
        self.attached = False
        self.ended = False
        self._waking = False
        self._unwritten: tuple[pb.SyncResponse, Callable[[], None]] | None = None
        """Waits for room, and what to do once it is written."""
        self._stuck_since_s: float | None = None
        self._timer: Timer | None = None
        connection.to_server.on_message = self._receive
        connection.to_server.on_end = self.end
        connection.to_client.on_room = self._room
        connection.on_broken_server = self.end
        self._arm()

    @property
    def subscription(self) -> Subscription:
        return self.stream.subscription

    # -- reading -----------------------------------------------------------------------------------

    def _receive(self, request: pb.SyncRequest) -> None:
        if self.ended:
            return
        subscription = self.subscription
        self.stream.revocations.receive(request, store_uid=self.plane.databases.store.uid)
        try:
            change = subscription.receive(request, self.plane.clock.now_s)
        except ProtocolViolation as error:
            self.plane.listener.violated(self, error)
            self.end()
            return
        self.stream.note_traffic(request)
        if subscription.state is State.CLOSED:
            return
        if not self.attached:
            self.connection.to_server.paused = True
            self.plane.clock.after(self._random.uniform(*DATABASE_S), self._admit)
            return
        self.plane.fan_out.received(self.stream, change)
        self.plane.listener.received(self, request)
        self._wake()

    def _admit(self) -> None:
        if self.ended:
            return
        plane = self.plane
        self.stream.identity = Identity.BOUND
        try:
            run_now(plane.fleet.database.catch_up())
            data_plane_id = self.stream.data_plane_id
            record = run_now(plane.databases.store.get_data_plane(data_plane_id))
            if record is not None:
                plane.fleet.state.remember(record, make_room=True)
            session = plane.claim(data_plane_id)
            run_now(plane.fleet.waves.refresh())
        except DomainError:
            self.end()
            return
        plane.fan_out.attach(self.stream, session)
        self.attached = True
        self.connection.to_server.resume()
        self._wake()

    # -- writing -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Look soon what there is to write: whoever wakes the writer goes on first."""
        if not self._waking:
            self._waking = True
            self.plane.clock.after(0.0, self._write_all)

    def _room(self) -> None:
        if self._unwritten is not None:
            self._wake()

    def _write_all(self) -> None:
        self._waking = False
        if self._unwritten is not None:
            response, written = self._unwritten
            self._unwritten = None
            self._write(response, written)
        while self.attached and not self.ended and self._unwritten is None:
            if not self._write_next():
                break
        if self.subscription.state is State.CLOSED and self._unwritten is None:
            self.end()
        if not self.ended:
            self._arm()

    def _write_next(self) -> bool:
        """Returns whether there may be more."""
        subscription = self.subscription
        output = subscription.take_output(self.plane.clock.now_s)
        if output is None:
            return False
        if isinstance(output, ChangeRequest):
            try:
                can_send_change = run_now(self.plane.chunks.can_send(output))
            except DomainError:
                self.end()
                return False
            output = subscription.announce(output, can_send_change=can_send_change)
        if not isinstance(output, pb.SyncResponse):
            return self._write_piece(output)
        self._write(self.plane.heads.add_to(output, subscription.head), lambda: None)
        return True

    def _write_piece(self, request: PieceRequest) -> bool:
        try:
            piece = run_now(self.plane.chunks.get(request))
        except (DomainError, LookupError):
            self.end()
            return False
        if piece is None:
            self.subscription.change_written()
        else:
            written = piece.written
            self._write(pb.SyncResponse.FromString(piece.content), lambda: self.subscription.chunk_written(written))
        return True

    def _write(self, response: pb.SyncResponse, written: Callable[[], None]) -> None:
        if not self.connection.to_client.has_room and not self.connection.to_client.is_cut:
            self._unwritten = (response, written)
            return
        self.connection.to_client.write(response)
        self._stuck_since_s = None
        self.plane.listener.sent(self, response)
        written()

    def _arm(self) -> None:
        """Come back when the stream's next deadline is due, or to end a stuck writer."""
        if self._timer is not None:
            self._timer.cancel()
        now_s = self.plane.clock.now_s
        due_s = max(self.subscription.due_s - now_s, WATCH_S if self._unwritten is not None else 0.0)
        self._timer = self.plane.clock.after(due_s, self._due)

    def _due(self) -> None:
        if self.ended:
            return
        now_s = self.plane.clock.now_s
        if self.subscription.ending(now_s) and (self._unwritten is not None or not self.attached):
            if self._stuck_since_s is None:
                self._stuck_since_s = now_s
            if now_s - self._stuck_since_s >= WATCH_S or not self.attached:
                self.end()
                return
        self._write_all()

    # -- ends --------------------------------------------------------------------------------------

    def end(self) -> None:
        """The stream is over. The client learns it after what it is sent before."""
        if self.ended:
            return
        self.vanish()
        if not self.connection.to_client.is_cut:
            self.connection.to_client.write(None)

    def vanish(self) -> None:
        """The same without a word to the client."""
        if self.ended:
            return
        self.ended = True
        self.plane.streams.remove(self)
        self.plane.fan_out.detach(self.stream)
        if self._timer is not None:
            self._timer.cancel()
        self.connection.to_server.cut()
