"""Snapshots as files."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from broadsheet.cli.view.parts import add_row
from broadsheet.cli.view.results import to_json
from protocol.bundles import Bundle
from protocol.signing.heads import parse_head


def bundle_view(bundle: Bundle, trusted: str | None) -> RenderableType:
    """What is in a file, and who has signed it.

    Args:
        bundle: Its content.
        trusted: Id of the trusted key that has signed it. None: that was not checked.
    """
    facts = Table.grid(padding=(0, 2))
    add_row(facts, "Revision", str(bundle.position.revision))
    add_row(facts, "Digest", bundle.position.digest.hex())
    add_row(facts, "Store", bundle.position.store_uid)
    add_row(facts, "Entries", f"{len(bundle.entries)} ({_counted(bundle)})" if bundle.entries else "0")
    if bundle.withheld:
        add_row(facts, "API keys", f"{bundle.withheld} without their content")
    add_row(facts, "Signed by", ", ".join(_signers(bundle)) or "nobody")
    add_row(facts, "Signature", f"good, by {trusted}" if trusted else "not checked; give --trusted-keys")
    return facts


def bundle_json(bundle: Bundle, trusted: str | None) -> dict[str, object]:
    """The same for programs. `trusted_key` is empty if no signature was checked."""
    return {
        "position": to_json(bundle.position),
        "entry_count": len(bundle.entries),
        "entries_by_type": dict(sorted(bundle.counts.items())),
        "withheld": bundle.withheld,
        "signed_by": _signers(bundle),
        "trusted_key": trusted or "",
    }


def _counted(bundle: Bundle) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(bundle.counts.items()))


def _signers(bundle: Bundle) -> list[str]:
    """Ids of the keys that it says have signed it."""
    if not bundle.signed_head:
        return []
    signed, _ = parse_head(bundle.signed_head)
    return [signature.key_id for signature in signed.signatures]
