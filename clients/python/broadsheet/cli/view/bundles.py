"""Snapshots as files."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table

from broadsheet.cli.view.parts import add_row, byte_size
from broadsheet.cli.view.results import to_json
from protocol.bundles.content import Bundle
from protocol.signing.heads import parse_head


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """What is known of a file."""

    bundle: Bundle
    trusted_key: str | None
    """Id of the trusted key that has signed it. None: that was not checked."""
    weights_bytes: int | None
    """Bytes of the files of adapters. None: it has none of them."""


def bundle_view(facts: BundleFacts) -> RenderableType:
    """What is in a file, and who has signed it."""
    bundle, trusted = facts.bundle, facts.trusted_key
    view = Table.grid(padding=(0, 2))
    add_row(view, "Revision", str(bundle.position.revision))
    add_row(view, "Digest", bundle.position.digest.hex())
    add_row(view, "Store", bundle.position.store_uid)
    add_row(view, "Entries", f"{len(bundle.entries)} ({_counted(bundle)})" if bundle.entries else "0")
    if bundle.withheld:
        add_row(view, "API keys", f"{bundle.withheld} without their content")
    if facts.weights_bytes is not None:
        add_row(view, "Weights", byte_size(facts.weights_bytes))
    add_row(view, "Signed by", ", ".join(_signers(bundle)) or "nobody")
    add_row(view, "Signature", f"good, by {trusted}" if trusted else "not checked; give --trusted-keys")
    return view


def bundle_json(facts: BundleFacts) -> dict[str, object]:
    """The same for programs. `trusted_key` is empty if no signature was checked."""
    bundle = facts.bundle
    return {
        "position": to_json(bundle.position),
        "entry_count": len(bundle.entries),
        "entries_by_type": dict(sorted(bundle.counts.items())),
        "withheld": bundle.withheld,
        "weights_bytes": facts.weights_bytes,
        "signed_by": _signers(bundle),
        "trusted_key": facts.trusted_key or "",
    }


def _counted(bundle: Bundle) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(bundle.counts.items()))


def _signers(bundle: Bundle) -> list[str]:
    """Ids of the keys that it says have signed it."""
    if not bundle.signed_head:
        return []
    signed, _ = parse_head(bundle.signed_head)
    return [signature.key_id for signature in signed.signatures]
