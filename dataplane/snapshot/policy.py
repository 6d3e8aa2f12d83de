"""What this data plane accepts: sizes, stores, sources and engine arguments. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position
from protocol import sources
from protocol.signing.heads import SIGNED_HEAD_BYTES_MAX
from protocol.signing.signatures import SIGNATURE_INVALID
from protocol.snapshot_limits import BLOB_BYTES_MAX, ENTRIES_MAX, SNAPSHOT_BYTES_MAX


class RefuseHead(Protocol):
    """Says why the signed head of a snapshot does not vouch for it; None if it does."""

    def __call__(self, position: Position, entry_count: int, signed_head: bytes) -> Rejection | None:
        """
        Args:
            position: The announced or stored position.
            entry_count: The announced or stored number of entries.
            signed_head: The serialised SignedHead that came with it. Empty: none did.
        """


def any_head(position: Position, entry_count: int, signed_head: bytes) -> Rejection | None:
    """Ask for no signature. What is kept with a snapshot has a bound, whoever made it."""
    if len(signed_head) <= SIGNED_HEAD_BYTES_MAX:
        return None
    message = f"the signed head has {len(signed_head)} bytes; allowed are {SIGNED_HEAD_BYTES_MAX}"
    return Rejection(reason=SIGNATURE_INVALID, message=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one snapshot.

    The control plane lets in no more. They keep a corrupt snapshot from exhausting memory.
    """

    entries_max: int = ENTRIES_MAX
    blob_bytes_max: int = BLOB_BYTES_MAX
    total_bytes_max: int = SNAPSHOT_BYTES_MAX
    """Names, types and blobs of all entries together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What this data plane accepts."""

    allowed_sources: tuple[str, ...]
    """URI prefixes that sources of models and adapters may have: `hf://`, `file:///models/`.
    Empty: no source is allowed."""
    allowed_engine_args: tuple[str, ...] = ()
    """Engine arguments that run code, read files or reach hosts and that publishers may set:
    `trust_remote_code`, `speculative_config.model`; `*`: all."""
    allow_new_store: bool = False
    """Accept a snapshot of a store other than the held one's. Set by an operator."""
    refuse_head: RefuseHead = any_head
    """Checks the signed head of a snapshot. Default: no signature is asked for."""
    limits: Limits = Limits()


def source_allowed(uri: str, allowed_sources: Iterable[str]) -> bool:
    """Whether `uri` lies under one of the prefixes.

    `file:///models` allows `file:///models/a`, but neither `file:///models-of-others` nor
    `file:///models/../etc`.
    """
    try:
        if sources.is_file(uri):
            sources.file_path(uri)
    except ValueError:
        return False
    return any(
        uri == prefix or uri.startswith(prefix if prefix.endswith("/") else prefix + "/")
        for prefix in allowed_sources
        if prefix
    )
