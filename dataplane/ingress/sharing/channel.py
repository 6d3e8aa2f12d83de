"""Messages between the replicas of a node, with open files. Sockets of the kernel's own namespace.

Their names are no files: they end with the process, are as local as the port (both belong to a
network namespace), and have no length that depends on a directory. They have no permissions
either, so each end asks the kernel who the other one is.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from dataplane.ingress.sharing.placement import SLOTS

_FORM = struct.Struct("!BHIB")
_FILES_SPACE = socket.CMSG_SPACE(2 * struct.calcsize("i"))
"""For two files; the kernel closes what is more."""
_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 2 * SLOTS


class Kind(IntEnum):
    """What a message says. Who asks connects; the other one answers."""

    HELLO = 1
    """First message of who asks: its slot, and in `number` whether it wants a listener."""
    GREETING = 2
    """The answer: the board of who answers, and a listener that it can spare, if it has one."""
    CONNECTION = 3
    """A connection and its claim: whoever reads the claim has the connection."""
    LISTENER = 4
    """A listener of a replica that stops."""
    TAKEN = 5
    """The numbered connection or listener has a new owner."""
    REFUSED = 6
    """It has not."""


_FILES = {Kind.GREETING: (1, 2), Kind.CONNECTION: (2, 2), Kind.LISTENER: (1, 1)}
"""How many files a message carries, at least and at most; others carry none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. Who receives it owns its files."""

    kind: Kind
    slot: int = 0
    number: int = 0
    """Of a connection or listener, among those on one socket."""
    hops: int = 0
    """How many replicas have had the connection."""
    files: tuple[int, ...] = ()


class ChannelClosed(Exception):
    """There will be no further message."""

    def __init__(self, *, gone: bool) -> None:
        """
        Args:
            gone: Whether the other end is closed. It has sent what is no message otherwise.
        """
        super().__init__(gone)
        self.gone = gone


def place_of(data_plane_id: str, host: str, port: int) -> str:
    """The beginning of the names of the replicas that share a port.

    Replicas of other users cannot share it, so the user is a part of it.
    """
    identity = f"{os.geteuid()}\0{data_plane_id}\0{host}\0{port}"
    return f"\0broadsheet-ingress-{hashlib.sha256(identity.encode()).hexdigest()[:32]}-"


def claim_slot(place: str) -> tuple[int, socket.socket] | None:
    """Take the first free slot of a place, and listen there. None: all are taken."""
    listener = _socket()
    for slot in range(SLOTS):
        try:
            listener.bind(f"{place}{slot}")
        except OSError:
            continue
        listener.listen(_BACKLOG)
        return slot, listener
    listener.close()
    return None


def connect(place: str, slot: int) -> socket.socket | None:
    """Connect to a slot. None: nobody is there, or it is not a process of this user."""
    channel = _socket()
    try:
        channel.connect(f"{place}{slot}")
    except OSError:
        channel.close()
        return None
    return channel if is_own(channel) else None


def is_own(channel: socket.socket) -> bool:
    """Whether the other end is a process of this user. It is closed otherwise."""
    _, user, _ = _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    own: bool = user == os.geteuid()
    if not own:
        channel.close()
    return own


def send(channel: socket.socket, message: Message) -> None:
    """Send a message.

    Raises:
        OSError: It was not sent: the other end is gone, or does not read.
    """
    content = _FORM.pack(message.kind, message.slot, message.number, message.hops)
    socket.send_fds(channel, [content], message.files)


def receive(channel: socket.socket) -> Message | None:
    """The next message. None: there is none yet.

    A message of which files are missing, because too many are open here, comes without any.

    Raises:
        ChannelClosed: There will be none.
    """
    try:
        # `socket.recv_fds` of Python 3.11 drops its flags, and every child would inherit the files.
        content, ancillary, _, _ = channel.recvmsg(_FORM.size + 1, _FILES_SPACE, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except OSError as error:
        raise ChannelClosed(gone=True) from error
    files = array.array("i")
    for _, _, data in ancillary:
        files.frombytes(data[: len(data) - len(data) % files.itemsize])
    if not content:
        close_files(files)
        raise ChannelClosed(gone=True)
    try:
        kind, slot, number, hops = _FORM.unpack(content)
        kind = Kind(kind)
    except (struct.error, ValueError) as error:
        close_files(files)
        raise ChannelClosed(gone=False) from error
    if slot >= SLOTS:
        close_files(files)
        raise ChannelClosed(gone=False)
    least, most = _FILES.get(kind, (0, 0))
    if not least <= len(files) <= most:
        close_files(files)
        files = array.array("i")
    return Message(kind=kind, slot=slot, number=number, hops=hops, files=tuple(files))


def close_files(files: Iterable[int]) -> None:
    """Close what a message brought."""
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)


def _socket() -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.setblocking(False)
    return channel
