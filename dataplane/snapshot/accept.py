"""Bytes → Snapshot | Rejection: everything that is checked before a snapshot may be served. Pure.

A fault of the snapshot as a whole rejects it, and the active one keeps serving. A fault of one
entry quarantines that entry, and the rest is served. The same checks apply to what arrives over the
wire and to what is read from disk at start. A snapshot that the agent relays to ingress replicas
comes with the agent's validation result (`validation.py`): its digests are checked again, its
entries are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.entry_checks import check_candidate, check_key, check_versioned, decode
from dataplane.snapshot.indexes import build
from dataplane.snapshot.integrity import digest_of, refuse_content, refuse_form, unchanged_entries
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.position_check import refuse_position
from dataplane.snapshot.quarantine import BASE_MODEL_QUARANTINED, Quarantine
from dataplane.snapshot.references import refuse_inconsistent
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Message, Position, RawEntry, Snapshot, candidate_name, model_of


def accept(
    position: Position,
    entries: Sequence[RawEntry],
    *,
    held: Snapshot | None,
    policy: Policy,
    found: Mapping[str, Quarantine] | None = None,
    signed_head: bytes = b"",
) -> Snapshot | Rejection:
    """Check a whole snapshot.

    Args:
        position: The announced position of the entries.
        entries: All of them, ordered by name.
        held: The active snapshot. `position` may not be behind it. Unchanged entries are taken from
            it without another check, because they were checked under the same policy: the cost of
            decoding and validating is proportional to the change.
        policy: What this data plane accepts.
        found: The quarantines that `accept` of the same release found for `position` under the same
            policy, by entry name (`validation.py`). Then digests and references are checked, but
            single entries are not, except API keys. None: everything is checked.
        signed_head: The serialised SignedHead that came with it. Empty: none did.
    """
    rejection = (
        refuse_position(position, held.position if held else None, allow_new_store=policy.allow_new_store)
        or policy.refuse_head(position, len(entries), signed_head)
        or refuse_form(entries, policy.limits)
    )
    if rejection is not None:
        return rejection
    unchanged = unchanged_entries(entries, held)
    digest = digest_of(entries, unchanged, held)
    rejection = refuse_content(position, entries, unchanged, digest)
    if rejection is not None:
        return rejection
    checked = {
        entry.name: _check(entry, _message_of(held, entry.name) if held and known else None, policy, found)
        for entry, known in zip(entries, unchanged, strict=True)
    }
    messages = {name: outcome.message for name, outcome in checked.items() if outcome.message is not None}
    rejection = refuse_inconsistent(entries, messages)
    if rejection is not None:
        return rejection
    served, quarantined = _separate(checked, policy)
    snapshot = build(position, entries, digest, served.values(), quarantined)
    return replace(snapshot, signed_head=signed_head)


@dataclass(frozen=True, slots=True)
class _Checked:
    """The outcome for one entry: a message, a quarantine, or both (decoded, but not served)."""

    message: Message | None
    quarantine: Quarantine | None


def _message_of(held: Snapshot, name: str) -> Message | None:
    """The checked message of an entry that is served by `held`.

    None for quarantined entries and pins. Both are few, and are checked again.
    """
    return held.models.get(name) or held.adapters.get(name) or held.routes.get(name) or held.api_key_entries.get(name)


def _check(entry: RawEntry, known: Message | None, policy: Policy, found: Mapping[str, Quarantine] | None) -> _Checked:
    if known is not None:
        return _Checked(known, None)
    message = decode(entry)
    if isinstance(message, Quarantine):
        return _Checked(None, message)
    if isinstance(message, api_key_pb2.ApiKeyEntry):
        # Always checked here: a relayed result must not decide who may call.
        return _Checked(message, check_key(message))
    return _Checked(message, check_versioned(message, policy) if found is None else found.get(entry.name))


def _separate(
    checked: Mapping[str, _Checked], policy: Policy
) -> tuple[Mapping[str, Message], Mapping[str, Quarantine]]:
    """Separate what is served from what is quarantined, both by name."""
    quarantined: dict[str, Quarantine] = {}
    served: dict[str, Message] = {}
    for name, outcome in checked.items():
        message = outcome.message
        if outcome.quarantine is not None:
            quarantined[name] = outcome.quarantine
        elif message is not None:
            served[name] = message
            if isinstance(message, snapshot_pb2.ModelEntry):
                candidate, quarantine = candidate_name(message), check_candidate(message, policy)
                if candidate is not None and quarantine is not None:
                    quarantined[candidate] = quarantine
    for name, message in tuple(served.items()):
        if not isinstance(message, snapshot_pb2.AdapterEntry | snapshot_pb2.AdapterRevisionEntry):
            continue
        if model_of(name) not in served:
            del served[name]
            quarantined[name] = Quarantine(
                reason=BASE_MODEL_QUARANTINED,
                message=f"its base {model_of(name)} is quarantined",
                revision_number=message.revision.number,
            )
    return served, quarantined
