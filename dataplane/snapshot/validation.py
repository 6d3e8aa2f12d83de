"""The agent's validation result of a snapshot, relayed so that ingress replicas can reuse it. Pure.

Validating ten thousand entries takes most of a second, and the same bytes checked by the same rules
give the same result. Every reader proves itself, by digests, that it has the same bytes (`accept`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

from dataplane.snapshot.policy import Policy
from dataplane.snapshot.quarantine import Quarantine
from dataplane.snapshot.snapshot import Position, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """Which entries of one snapshot are to be quarantined because of their content."""

    rules: str
    """The rules that were applied, from `validation_rules`."""
    quarantined: Mapping[str, Quarantine]
    """By resource name."""
    seal: bytes
    """SHA-256 of the position and the fields above. It detects damage on the way."""


def validation_rules(release: str, policy: Policy) -> str:
    """Identify the rules that decide whether an entry is quarantined: release and policy."""
    return json.dumps([release, policy.allowed_sources, policy.allowed_engine_args])


def validation_result(snapshot: Snapshot, rules: str, names: Iterable[str] | None = None) -> ValidationResult:
    """The quarantines that were found for entries of `snapshot`.

    Args:
        snapshot: Accepted by this process.
        rules: From `validation_rules`.
        names: The entries of a change that has led to it; None: all entries.
    """
    # A quarantined candidate is not an entry, but the same revision may also be a pinned entry,
    # which has the same name.
    quarantined = {
        name: quarantine
        for name in (snapshot.quarantined if names is None else names)
        if (quarantine := snapshot.quarantined.get(name)) is not None
        and name not in snapshot.deployable
        and snapshot.entries.get(name) is not None
    }
    return ValidationResult(rules=rules, quarantined=quarantined, seal=_seal(snapshot.position, rules, quarantined))


def trusted_quarantines(
    validation: ValidationResult, position: Position, rules: str
) -> Mapping[str, Quarantine] | None:
    """The quarantines found for `position`; None if they cannot be reused under `rules`."""
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
