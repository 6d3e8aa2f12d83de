"""The other ingress replicas of the node: finds them, watches them, and moves connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Protocol

import structlog

from dataplane.ingress.sharing import channel as channels
from dataplane.ingress.sharing.accept_loop import AcceptLoop
from dataplane.ingress.sharing.board import Board
from dataplane.ingress.sharing.inlet import Inlet
from dataplane.ingress.sharing.link import Link
from dataplane.ingress.sharing.placement import SLOTS, Candidate, choose, choose_any, surplus

_BEAT_S = 0.2
"""How often a replica shows that its event loop runs."""
_BEAT_LATE_NS = 1_000_000_000
"""A replica that has not shown it for so long is handed nothing. Its event loop hangs."""
_LOOK_S = 5.0
"""How often replicas without a link are looked for. Newcomers introduce themselves."""
_GREETING_S = 0.5
"""How long a newcomer waits for the others, which may spare a listener."""

_log = structlog.get_logger("dataplane.ingress.sharing")


class Receiver(Protocol):
    """Who opens connections here."""

    def take(self, connection: socket.socket, hops: int) -> None:
        """Another replica has handed a connection over."""

    def take_back(self, connection: socket.socket) -> None:
        """Nobody has taken a connection that was handed over."""

    def adopt(self, listener: socket.socket) -> None:
        """Another replica has given a listener."""

    def given(self, listener: socket.socket, *, taken: bool) -> None:
        """A listener that was given away has a new owner, or has not."""

    def spare_listener(self) -> socket.socket | None:
        """A listener that is not needed here. None: there is only one."""


class Siblings:
    """The replicas of one place. Each has a slot, a board, and a link to each other one."""

    def __init__(self, place: str, receiver: Receiver) -> None:
        """
        Args:
            place: From `place_of`: what the replicas of a node have in common.
            receiver: Opens connections.
        """
        self._place = place
        self._receiver = receiver
        self._slot: int | None = None
        self._board: Board | None = None
        self._entrance: AcceptLoop | None = None
        self._links: dict[int, Link] = {}
        self._inlets: dict[Inlet, socket.socket | None] = {}
        """With the listener that was offered to the other replica."""
        self._inlet_of: dict[int, Inlet] = {}
        """The last one of each slot."""
        self._greeted = asyncio.Event()
        self._beats: asyncio.TimerHandle | None = None
        self._looks: asyncio.TimerHandle | None = None
        self._room = 0
        self._wants_listener = False

    async def join(self) -> None:
        """Take a slot and meet the others. A listener that one of them can spare is adopted."""
        claimed = channels.claim_slot(self._place)
        if claimed is None:
            _log.warning("connections_not_shared", reason="all slots of this port are taken", slots=SLOTS)
            return
        self._slot, listener = claimed
        self._board = Board.create()
        self._entrance = AcceptLoop(listener, self._enter)
        self._entrance.start()
        self._keep_beating()
        self._wants_listener = True
        self._keep_looking()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GREETING_S):
                while any(link.board is None for link in self._links.values()):
                    self._greeted.clear()
                    await self._greeted.wait()
        self._wants_listener = False

    def show(self, connections: int, room: int) -> None:
        """Show the others how many connections this replica has and may have."""
        self._room = room
        if self._board is not None:
            self._board.show(connections, room)

    def hand(self, connection: socket.socket, hops: int, *, own: int | None) -> bool:
        """Hand a connection to the replica with the fewest. Returns False if it stays.

        Args:
            connection: Nothing was read from it.
            hops: How many replicas have had it, with this one.
            own: Connections here, with this one. None: this replica stops, anybody may take it.
        """
        others = self._candidates()
        if not others or self._slot is None:
            return False
        if own is None:
            slot = choose_any(self._slot, others)
        else:
            slot = choose(own + self._on_the_way(self._slot), self._slot, others, self._on_the_way)
        return slot is not None and self._links[slot].hand(connection, hops)

    def surplus(self, own: int) -> int:
        """How many of so many connections should be at other replicas."""
        return surplus(own, self._candidates())

    def give(self, listener: socket.socket) -> bool:
        """Give a listener to another replica. Returns False if none takes it."""
        others = sorted(self._candidates(), key=lambda other: other.connections)
        return any(self._links[other.slot].give(listener) for other in others)

    @property
    def count(self) -> int:
        """Other replicas that may be handed connections."""
        return sum(other.room > 0 for other in self._candidates())

    @property
    def is_settled(self) -> bool:
        """Whether nothing is on its way to another replica."""
        return all(link.is_settled for link in self._links.values())

    def leave(self) -> None:
        """End all links, and give the slot back."""
        for timer in (self._beats, self._looks):
            if timer is not None:
                timer.cancel()
        if self._entrance is not None:
            self._entrance.stop()
            self._entrance.listener.close()  # first, so that nobody comes back
            self._entrance = None
        for inlet in tuple(self._inlets):
            inlet.close()
        self._inlets.clear()
        links, self._links = self._links, {}
        for link in links.values():
            link.close()
        if self._board is not None:
            self._board.close()
            self._board = None
        self._slot = None

    # --- finding ----------------------------------------------------------------------------------

    def _enter(self, channel: socket.socket) -> None:
        if not channels.is_own(channel):
            return
        if len(self._inlets) >= 2 * SLOTS:
            channel.close()
            return
        inlet = Inlet(channel, self)
        self._inlets[inlet] = None
        inlet.open()

    def _connect(self, slot: int) -> None:
        if slot == self._slot or slot in self._links or self._board is None or self._slot is None:
            return
        channel = channels.connect(self._place, slot)
        if channel is None:
            return
        link = Link(slot, channel, self._board, self)
        self._links[slot] = link
        if not link.open(self._slot, wants_listener=self._wants_listener):
            del self._links[slot]
            link.close()

    def _keep_looking(self) -> None:
        for slot in range(SLOTS):
            self._connect(slot)
        self._looks = asyncio.get_running_loop().call_later(_LOOK_S, self._keep_looking)

    def _keep_beating(self) -> None:
        if self._board is not None:
            self._board.beat(time.monotonic_ns())
        self._beats = asyncio.get_running_loop().call_later(_BEAT_S, self._keep_beating)

    # --- counting ---------------------------------------------------------------------------------

    def _candidates(self) -> list[Candidate]:
        late_ns = time.monotonic_ns() - _BEAT_LATE_NS
        return [
            Candidate(slot=slot, connections=link.board.connections, room=link.board.room)
            for slot, link in self._links.items()
            if link.board is not None and link.board.beat_ns > late_ns
        ]

    def _on_the_way(self, slot: int) -> int:
        """What all replicas have sent to a slot and it has not taken yet."""
        board = self._board_of(slot)
        if board is None:
            return 0
        total = 0
        for sender in (*self._links, self._slot):
            sent = self._board_of(sender)
            if sent is not None and sender is not None:
                total += max(0, sent.sent(slot) - board.taken(sender))
        return total

    def _board_of(self, slot: int | None) -> Board | None:
        if slot == self._slot:
            return self._board
        link = self._links.get(slot) if slot is not None else None
        return link.board if link is not None else None

    # --- as the owner of links --------------------------------------------------------------------

    def take_back(self, connection: socket.socket) -> None:
        self._receiver.take_back(connection)

    def adopt(self, listener: socket.socket) -> None:
        self._receiver.adopt(listener)

    def given(self, listener: socket.socket, *, taken: bool) -> None:
        self._receiver.given(listener, taken=taken)

    def greeted(self) -> None:
        self._greeted.set()

    def lost(self, link: Link) -> None:
        self._links.pop(link.slot, None)
        self._greeted.set()
        self._connect(link.slot)  # another replica may have the slot already

    # --- as the host of inlets --------------------------------------------------------------------

    @property
    def board_fd(self) -> int:
        assert self._board is not None, "it has joined"
        assert self._board.fd is not None, "it is its own"
        return self._board.fd

    @property
    def takes(self) -> bool:
        return self._room > 0

    def said_hello(self, inlet: Inlet) -> None:
        if inlet.slot is None or self._board is None:
            return
        self._inlet_of[inlet.slot] = inlet
        self._board.forget_taken(inlet.slot)
        self._connect(inlet.slot)

    def take(self, inlet: Inlet, connection: socket.socket, hops: int) -> None:
        # First, so that nobody counts it twice: who is thought to have too many is handed too few.
        # Who is thought to have too few hands on what is too much.
        if inlet.slot is not None and self._inlet_of.get(inlet.slot) is inlet and self._board is not None:
            self._board.add_taken(inlet.slot)
        self._receiver.take(connection, hops)

    def offer(self, inlet: Inlet) -> socket.socket | None:
        offered = {listener for listener in self._inlets.values() if listener is not None}
        spare = self._receiver.spare_listener()
        if spare is None or spare in offered:
            return None
        self._inlets[inlet] = spare
        return spare

    def offer_ended(self, inlet: Inlet, *, taken: bool) -> None:
        offered = self._inlets.get(inlet)
        if offered is not None:
            self._inlets[inlet] = None
            self._receiver.given(offered, taken=taken)

    def ended(self, inlet: Inlet) -> None:
        self._inlets.pop(inlet, None)
        if inlet.slot is not None and self._inlet_of.get(inlet.slot) is inlet:
            del self._inlet_of[inlet.slot]
