"""Whether a snapshot stays consistent with a change, by the rules of `references`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dataplane.snapshot.changes.difference import Difference, message_before
from dataplane.snapshot.entry_checks import Checked
from dataplane.snapshot.references import dangling_reference, refuse_name, served_name_conflict
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import ADAPTER_ENTRY, Entries, Message, RawEntry, Resource


def refuse_inconsistent_change(difference: Difference, checked: Mapping[str, Checked]) -> Rejection | None:
    """Check the snapshot after a change for consistency; the one before is consistent.

    Args:
        difference: The change.
        checked: The outcome for each entry of `difference.fresh`.
    """
    messages = {name: outcome.message for name, outcome in checked.items() if outcome.message is not None}
    return (
        next((fault for name, message in messages.items() if (fault := refuse_name(name, message))), None)
        or _refuse_served_names(difference, messages)
        or _refuse_references(difference, messages)
    )


def _refuse_served_names(difference: Difference, messages: Mapping[str, Message]) -> Rejection | None:
    held, owners = difference.held, dict[str, str]()
    for message in messages.values():
        if not isinstance(message, Resource) or not message.served_name:
            continue
        owner = owners.setdefault(message.served_name, message.name)
        if owner == message.name:
            before = held.served.get(message.served_name)
            owner_before = before.name if before else held.quarantined_served_names.get(message.served_name)
            if owner_before is None or owner_before in difference.gone:
                continue
            owner = owner_before
        return served_name_conflict(owner, message)
    return None


def _refuse_references(difference: Difference, messages: Mapping[str, Message]) -> Rejection | None:
    """Check the references of new entries, and those to entries that are lost.

    Of several faults the first by name is returned, as by the check of a whole snapshot.
    """
    names = difference.entries.by_name
    models = _Models(difference.entries)
    suspects = dict(messages)
    for entry in _referring_to_lost(difference):
        message = message_before(difference.held, entry)
        if message is not None:
            suspects[entry.name] = message
    for name in sorted(suspects):
        fault = dangling_reference(suspects[name], models, names)
        if fault is not None:
            return fault
    return None


def _referring_to_lost(difference: Difference) -> Iterator[RawEntry]:
    """Unchanged entries that may refer to what is not there any more, or is no model any more."""
    entries = difference.entries
    for name, before in difference.gone.items():
        after = entries.get(name)
        if after is not None and (after.type != ADAPTER_ENTRY or before.type == ADAPTER_ENTRY):
            continue
        for entry in entries.below(name):
            if entry.name not in difference.fresh:
                yield entry
        for (target, referring), _ in difference.held.references.items_from((name, "")):
            if target != name:
                break
            unchanged = entries.get(referring)
            if unchanged is not None and referring not in difference.fresh:
                yield unchanged


class _Models:
    """The names of entries that an adapter may be based on, as a container."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def __contains__(self, name: object) -> bool:
        entry = self._entries.get(name) if isinstance(name, str) else None
        return entry is not None and entry.type != ADAPTER_ENTRY
