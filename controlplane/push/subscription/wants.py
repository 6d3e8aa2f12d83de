"""What a Want asks for, and whether it is legal now. Pure."""

from __future__ import annotations

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.subscription.states import State
from controlplane.push.subscription.transfer import Refs, Transfer
from controlplane.push.subscription.violations import checked_position, refuse


def read_want(want: pb.Want, state: State, transfer: Transfer | None) -> tuple[Transfer, tuple[str, ...] | None]:
    """The transfer that a Want is about, and names of the entries that the client lacks, in order.

    The names are None if what was sent did not come out.

    Raises:
        ProtocolViolation: it is invalid, or illegal now.
    """
    is_after_refs = state is State.WANT_EXPECTED
    is_after_commit = state is State.ANSWER_EXPECTED
    if transfer is None or not (is_after_refs or (is_after_commit and transfer.mode != pb.Intent.MODE_FULL)):
        refuse("Want answers refs, or the Commit of a change or a manifest, and came at another time", "want")
    if checked_position("want.to", want.to) != transfer.head.position:
        refuse("it is not the snapshot that was sent last", "want.to")
    if is_after_refs:
        return transfer, _wanted_names(want, transfer.refs)
    if want.digests:
        refuse(f"got {len(want.digests)} digests: after a Commit there are none", "want.digests")
    return transfer, None


def _wanted_names(want: pb.Want, refs: Refs) -> tuple[str, ...]:
    digests = set(want.digests)
    if len(digests) != len(want.digests):
        refuse("a digest comes twice", "want.digests")
    if not digests <= refs.keys():
        unknown = min(digests - refs.keys())
        refuse(f"{unknown.hex()[:12]}… is not in the last chunk of refs", "want.digests")
    return tuple(sorted(name for digest in digests for name in refs[digest]))
