"""The entries that differ between a snapshot and the next one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.snapshot.entry_checks import decode
from dataplane.snapshot.quarantine import Quarantine
from dataplane.snapshot.snapshot import Entries, Message, RawEntry, Snapshot
from protocol.catalog_digest import CatalogDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a change comes to, before its entries are decoded."""

    held: Snapshot
    """The snapshot before."""
    entries: Entries
    """All entries after the change."""
    gone: Mapping[str, RawEntry]
    """By name: the entries of `held` that are removed or replaced."""
    fresh: Mapping[str, RawEntry]
    """By name: the entries that are new or different."""
    digest: CatalogDigest
    """Of `entries`."""
    size_bytes: int
    """Of `entries`."""


def message_before(held: Snapshot, entry: RawEntry) -> Message | None:
    """The message of an entry of `held`, also if it is quarantined; None: it cannot be decoded."""
    known = held.message_of(entry.name)
    if known is not None:
        return known
    message = decode(entry)
    return None if isinstance(message, Quarantine) else message
