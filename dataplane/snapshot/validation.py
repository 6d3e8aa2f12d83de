"""What the agent has found of a snapshot's entries, told to ingress replicas so that they need not
look again. Pure.

Validating ten thousand entries takes most of a second, and whoever checks the same bytes by the
same rules finds the same. That they are the same bytes is proved by their digests, which every
reader checks itself (`accept`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from dataplane.snapshot.accept import Policy
from dataplane.snapshot.snapshot import Position, Quarantine, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """Which entries of one snapshot are to be quarantined for what they say."""

    rules: str
    """What was checked by, from `validation_rules`."""
    quarantined: Mapping[str, Quarantine]
    """By resource name."""
    seal: bytes
    """SHA-256 of the position and of the fields above: what was damaged on the way is not
    believed."""


def validation_rules(release: str, policy: Policy) -> str:
    """What decides, with an entry's bytes, whether it is quarantined."""
    return json.dumps([release, *policy.allowed_sources])


def validation_result(snapshot: Snapshot, rules: str) -> ValidationResult:
    """What `accept` has found when it made `snapshot`."""
    # A quarantined candidate is no entry, though it may bear the name of one: that of the same
    # revision, pinned.
    quarantined = {
        entry.name: snapshot.quarantined[entry.name]
        for entry in snapshot.entries
        if entry.name in snapshot.quarantined and entry.name not in snapshot.deployable
    }
    return ValidationResult(rules=rules, quarantined=quarantined, seal=_seal(snapshot.position, rules, quarantined))


def trusted_quarantines(
    validation: ValidationResult, position: Position, rules: str
) -> Mapping[str, Quarantine] | None:
    """What was found of the entries of `position`; None: they have to be checked."""
    if validation.rules != rules or validation.seal != _seal(position, validation.rules, validation.quarantined):
        return None
    return validation.quarantined


def _seal(position: Position, rules: str, quarantined: Mapping[str, Quarantine]) -> bytes:
    fields = [
        [position.store_uid, position.revision, position.digest.hex()],
        rules,
        sorted((name, *astuple(quarantine)) for name, quarantine in quarantined.items()),
    ]
    return hashlib.sha256(json.dumps(fields).encode()).digest()
