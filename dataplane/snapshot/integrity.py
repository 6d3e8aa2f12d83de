"""Whether entries are exactly those of their position: order, digests, and what is unchanged. Pure.

The cost of the digests is proportional to what differs from the held snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import (
    BLOB_DIGEST_MISMATCH,
    BLOB_TOO_LARGE,
    ENTRIES_NOT_ORDERED,
    ROOT_DIGEST_MISMATCH,
    SNAPSHOT_TOO_LARGE,
    Rejection,
)
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from protocol.catalog_digest import CatalogDigest, blob_digest
from protocol.snapshot_limits import entry_bytes
from protocol.validation import shorten


def refuse_form(entries: Sequence[RawEntry], limits: Limits) -> Rejection | None:
    """Check the number of entries, their order, and their sizes."""
    size = sum(entry_bytes(entry.name, entry.type, len(entry.blob)) for entry in entries)
    return refuse_entry_count(len(entries), limits) or refuse_entries(entries, limits) or refuse_size(size, limits)


def refuse_entry_count(count: int, limits: Limits) -> Rejection | None:
    """Check the number of entries of a snapshot."""
    if count <= limits.entries_max:
        return None
    return Rejection(reason=SNAPSHOT_TOO_LARGE, message=f"it has more than {limits.entries_max} entries")


def refuse_entries(entries: Sequence[RawEntry], limits: Limits) -> Rejection | None:
    """Check the order of entries, and the size of each."""
    for before, entry in pairwise(entries):
        if before.name >= entry.name:
            return not_ordered(before.name, entry.name)
    for entry in entries:
        if len(entry.blob) > limits.blob_bytes_max:
            return too_large(entry.name, len(entry.blob), limits)
    return None


def refuse_size(size_bytes: int, limits: Limits) -> Rejection | None:
    """Check the bytes of all entries of a snapshot, by `entry_bytes`."""
    if size_bytes <= limits.total_bytes_max:
        return None
    return Rejection(reason=SNAPSHOT_TOO_LARGE, message=f"it has more than {limits.total_bytes_max} bytes")


def too_large(name: str, blob_bytes: int, limits: Limits) -> Rejection:
    """The rejection for an entry whose content is too large."""
    return Rejection(
        reason=BLOB_TOO_LARGE,
        message=f"{shorten(name)} has {blob_bytes} bytes, allowed are {limits.blob_bytes_max}",
    )


def not_ordered(before: str, name: str) -> Rejection:
    """The rejection for a name that does not come after the one before it."""
    return Rejection(
        reason=ENTRIES_NOT_ORDERED,
        message=f"{shorten(name)} comes after {shorten(before)}; names must increase",
    )


def unchanged_entries(entries: Iterable[RawEntry], held: Snapshot | None) -> list[RawEntry | None]:
    """For each entry, the entry of `held` with the same name, type and digest; None without one."""
    if held is None:
        return [None for _ in entries]
    by_name = {entry.name: entry for entry in held.entries}
    return [
        known if (known := by_name.get(entry.name)) is not None and is_same(known, entry) else None for entry in entries
    ]


def is_same(known: RawEntry, entry: RawEntry) -> bool:
    """Whether two entries have the same name, type and digest."""
    return known.name == entry.name and known.type == entry.type and known.digest == entry.digest


def digest_of(
    entries: Sequence[RawEntry], unchanged: Sequence[RawEntry | None], held: Snapshot | None
) -> CatalogDigest:
    """The digest of the announced entry digests, from the digest of `held` and the difference."""
    digest = held.digest if held else CatalogDigest()
    remaining = {known.name for known in unchanged if known is not None}
    for entry in held.entries if held else ():
        if entry.name not in remaining:
            digest = digest.removed(entry.name, entry.type, entry.digest)
    for entry, known in zip(entries, unchanged, strict=True):
        if known is None:
            digest = digest.added(entry.name, entry.type, entry.digest)
    return digest


def refuse_content(
    position: Position, entries: Sequence[RawEntry], unchanged: Sequence[RawEntry | None], digest: CatalogDigest
) -> Rejection | None:
    """Check each blob against its digest, and `digest` against the position's root digest."""
    for entry, known in zip(entries, unchanged, strict=True):
        if (rejection := refuse_blob(entry, known)) is not None:
            return rejection
    return refuse_root(position, digest)


def refuse_blob(entry: RawEntry, known: RawEntry | None) -> Rejection | None:
    """Check the blob of an entry against its digest.

    Args:
        entry: The entry.
        known: An entry with the same digest, whose blob was checked; None without one.
    """
    # Comparing with bytes that are known to have this digest costs a tenth of hashing them.
    if (known is None or known.blob != entry.blob) and blob_digest(entry.blob) != entry.digest:
        return Rejection(reason=BLOB_DIGEST_MISMATCH, message=f"the content of {shorten(entry.name)} was altered")
    return None


def refuse_root(position: Position, digest: CatalogDigest) -> Rejection | None:
    """Check the digest of all entries against the position's root digest."""
    if digest.root() == position.digest:
        return None
    return Rejection(
        reason=ROOT_DIGEST_MISMATCH,
        message=f"the entries have root digest {digest.root().hex()}, announced was {position.digest.hex()}",
    )
