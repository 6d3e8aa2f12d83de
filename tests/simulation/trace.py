"""What happened in a run, in lines for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from broadsheet.v1 import snapshot_service_pb2 as pb
from tests.simulation.virtual.clock import Clock

LINES_MAX = 100_000


class AnyPosition(Protocol):
    """A position of either plane."""

    @property
    def store_uid(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def digest(self) -> bytes: ...


Showable = AnyPosition | pb.SyncRequest | pb.SyncResponse | None


class Trace:
    """Lines of time, who, and what. Without `on`, nothing is formatted."""

    def __init__(self, clock: Clock, *, on: bool) -> None:
        self.lines: list[str] = []
        self._clock = clock
        self._on = on

    def add(self, who: str, what: str, *shown_by: Showable) -> None:
        """Add a line.

        Args:
            who: Who does it.
            what: What, with a `{}` for each of `shown_by`.
            shown_by: Messages and positions.
        """
        if self._on and len(self.lines) < LINES_MAX:
            text = what.format(*map(_text, shown_by)) if shown_by else what
            self.lines.append(f"{self._clock.now_s:9.3f}  {who:<14} {text}")


def _text(item: Showable) -> str:
    if isinstance(item, pb.SyncRequest):
        return _request_text(item)
    return _response_text(item) if isinstance(item, pb.SyncResponse) else shown(item)


def shown(position: AnyPosition | None) -> str:
    """Store and revision, with the start of the digest."""
    if position is None or not position.store_uid:
        return "nothing"
    return f"{position.store_uid}@{position.revision}#{position.digest.hex()[:6]}"


def _response_text(response: pb.SyncResponse) -> str:
    """A message to a data plane."""
    match response.WhichOneof("message"):
        case "intent":
            mode = pb.Intent.Mode.Name(response.intent.mode).removeprefix("MODE_")
            base = f" from {shown(response.intent.base)}" if response.intent.HasField("base") else ""
            return f"Intent {mode} {shown(response.intent.to)}{base}, {response.intent.entry_count} entries"
        case "chunk":
            refs = response.chunk.refs or [entry.ref for entry in response.chunk.entries]
            names = ("refs of " if response.chunk.refs else "") + ", ".join(ref.name for ref in refs)
            removed = f" without {', '.join(response.chunk.removed)}" if response.chunk.removed else ""
            return f"Chunk {names}{removed}"
        case "commit":
            return f"Commit {shown(response.commit.to)}"
        case "heartbeat":
            return f"Heartbeat {shown(response.heartbeat.head)}"
        case "goodbye":
            return f"Goodbye {response.goodbye.reason}"
    return str(response.WhichOneof("message"))


def _request_text(request: pb.SyncRequest) -> str:
    """A message of a data plane."""
    match request.WhichOneof("message"):
        case "hello":
            rejected = f", rejects {_shown_all(request.hello.rejected)}" if request.hello.rejected else ""
            return f"Hello of {request.hello.instance_uid}, has {shown(request.hello.have)}{rejected}"
        case "want":
            return f"Want {len(request.want.digests)} entries of {shown(request.want.to)}"
    status = request.status
    phase = pb.Phase.Name(status.phase).removeprefix("PHASE_")
    reason = f" {status.reason}" if status.reason else ""
    return f"Status {phase}{reason} {shown(status.target)}, serves {shown(status.serving)}"


def _shown_all(positions: Iterable[AnyPosition]) -> str:
    return ", ".join(map(shown, positions))
