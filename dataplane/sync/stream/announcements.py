"""What an Intent announces: whether it is refused, and what collects it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.assembler import Assembler, refuse_entry_count
from dataplane.snapshot.policy import Limits, Policy
from dataplane.snapshot.position_check import refuse_position
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.events import Rejected
from dataplane.sync.stream.manifest import ManifestAssembler
from dataplane.sync.transitions import Input, ProtocolViolation
from protocol.signing.heads import signed_head_of

_INPUTS: Mapping[pb.Intent.Mode.ValueType, Input] = MappingProxyType(
    {
        pb.Intent.MODE_NONE: Input.INTENT_NONE,
        pb.Intent.MODE_FULL: Input.INTENT_FULL,
        pb.Intent.MODE_DELTA: Input.INTENT_DELTA,
        pb.Intent.MODE_MANIFEST: Input.INTENT_MANIFEST,
    }
)


def input_of(intent: pb.Intent) -> Input:
    """What an Intent is to the state machine.

    Raises:
        ProtocolViolation: This release does not know its mode.
    """
    taken = _INPUTS.get(intent.mode)
    if taken is None:
        raise ProtocolViolation(f"an Intent has mode {intent.mode}, which this release does not know")
    return taken


def base_of(intent: pb.Intent, serving: Position | None) -> Position | None:
    """The snapshot in service, if the announced one is collected from it; None: all of it follows.

    Raises:
        ProtocolViolation: A change begins elsewhere.
    """
    if intent.mode == pb.Intent.MODE_FULL:
        return None
    if intent.mode == pb.Intent.MODE_DELTA and Position.from_proto(intent.base) != serving:
        raise ProtocolViolation("a change does not begin at the snapshot that is served")
    return serving


def refuse_announced(
    intent: pb.Intent, serving: Position | None, known: Rejected | None, policy: Policy
) -> Rejection | None:
    """Why an announced snapshot is refused: it was before, it may not follow what is served, no
    trusted key has signed it, or it is too large."""
    if known is not None:
        return Rejection(reason=known.reason, message=known.message)
    position = Position.from_proto(intent.to)
    return (
        refuse_position(position, serving, allow_new_store=policy.allow_new_store)
        or policy.refuse_head(position, intent.entry_count, signed_head_of(intent))
        or refuse_entry_count(intent.entry_count, policy.limits)
    )


def assembler_of(
    intent: pb.Intent, base: Position | None, held: Callable[[], Iterable[RawEntry]], limits: Limits
) -> Assembler | ManifestAssembler:
    """What collects an announced snapshot.

    Args:
        intent: The announcement.
        base: By `base_of`.
        held: The entries of `base`, ordered by name.
        limits: What this data plane accepts.
    """
    position, count = Position.from_proto(intent.to), intent.entry_count
    if intent.mode != pb.Intent.MODE_MANIFEST:
        return Assembler(position, count, limits, base=base)
    return ManifestAssembler(position, count, limits, base=base, held=held() if base is not None else ())
