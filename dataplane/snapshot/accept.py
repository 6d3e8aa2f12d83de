"""Bytes → Snapshot | Rejection: everything that is checked before a snapshot may be served. Pure.

What is wrong with the snapshot as a whole rejects it, and the one before goes on serving. What is
wrong with one entry alone quarantines that entry, and the rest is served. The same checks are made
of what comes over the wire and of what is read from disk at start. Of what the agent relays to
ingress replicas it is proved again that it is the snapshot of its position; what the agent has
found of single entries is relayed with it (validation.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from google.protobuf.message import DecodeError

from broadsheet.v1 import adapter_pb2, api_key_pb2, model_pb2, route_pb2, snapshot_pb2
from dataplane.snapshot.snapshot import (
    ADAPTER_ENTRY,
    ADAPTER_REVISION_ENTRY,
    API_KEY_ENTRY,
    MODEL_ENTRY,
    MODEL_REVISION_ENTRY,
    ROUTE_ENTRY,
    Message,
    Pin,
    Position,
    Quarantine,
    RawEntry,
    Snapshot,
    Versioned,
    build,
    candidate_name,
    model_of,
)
from protocol import sources
from protocol.api_keys import HASH_BYTES
from protocol.catalog_digest import CatalogDigest, blob_digest
from protocol.names import SERVED_NAME_PATTERN, parse_adapter, parse_api_key, parse_model, parse_route, parse_target
from protocol.validation import shorten, violations_of

# Reasons of rejections. Part of the API: operators and tests match on them.
STORE_UID_MISMATCH = "STORE_UID_MISMATCH"
REVISION_LOWER = "REVISION_LOWER"
REVISION_CONFLICT = "REVISION_CONFLICT"
POSITION_INVALID = "POSITION_INVALID"
SNAPSHOT_TOO_LARGE = "SNAPSHOT_TOO_LARGE"
BLOB_TOO_LARGE = "BLOB_TOO_LARGE"
ENTRY_COUNT_MISMATCH = "ENTRY_COUNT_MISMATCH"
ENTRIES_NOT_ORDERED = "ENTRIES_NOT_ORDERED"
BLOB_DIGEST_MISMATCH = "BLOB_DIGEST_MISMATCH"
ROOT_DIGEST_MISMATCH = "ROOT_DIGEST_MISMATCH"
NAME_MISMATCH = "NAME_MISMATCH"
SERVED_NAME_CONFLICT = "SERVED_NAME_CONFLICT"
BASE_MODEL_MISSING = "BASE_MODEL_MISSING"
ROUTE_TARGET_MISSING = "ROUTE_TARGET_MISSING"

# Reasons of quarantines.
TYPE_UNKNOWN = "TYPE_UNKNOWN"
BLOB_UNREADABLE = "BLOB_UNREADABLE"
ENTRY_INVALID = "ENTRY_INVALID"
SOURCE_NOT_ALLOWED = "SOURCE_NOT_ALLOWED"
BASE_MODEL_QUARANTINED = "BASE_MODEL_QUARANTINED"

POSITION_DIGEST_BYTES = 32

_SERVED_NAME = re.compile(SERVED_NAME_PATTERN)
_MESSAGE_TYPES: Mapping[str, type[Message]] = MappingProxyType(
    {
        MODEL_ENTRY: snapshot_pb2.ModelEntry,
        ADAPTER_ENTRY: snapshot_pb2.AdapterEntry,
        ROUTE_ENTRY: snapshot_pb2.RouteEntry,
        MODEL_REVISION_ENTRY: snapshot_pb2.ModelRevisionEntry,
        ADAPTER_REVISION_ENTRY: snapshot_pb2.AdapterRevisionEntry,
        API_KEY_ENTRY: api_key_pb2.ApiKeyEntry,
    }
)

_PINS = (snapshot_pb2.ModelRevisionEntry, snapshot_pb2.AdapterRevisionEntry)
_UNNAMED = (*_PINS, api_key_pb2.ApiKeyEntry)
"""Entries without a served name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a snapshot as a whole is refused."""

    reason: str
    """UPPER_SNAKE."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one snapshot may be. Far above what the control plane lets in: they keep a broken one
    from eating memory."""

    entries_max: int = 1_000_000
    blob_bytes_max: int = 1024 * 1024
    total_bytes_max: int = 2 * 1024**3
    """Names, types and blobs of all entries together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What this data plane accepts."""

    allowed_sources: tuple[str, ...]
    """URI prefixes of the sources that models and adapters may have: `hf://`, `file:///models/`.
    Empty: none."""
    allow_new_store: bool = False
    """Take a snapshot of another store than the held one's: an operator said so."""
    limits: Limits = Limits()


def refuse_position(position: Position, held: Position | None, *, allow_new_store: bool) -> Rejection | None:
    """Why `position` may not follow `held`, whatever its content; None: it may.

    The very position that is held may follow itself: that changes nothing.
    """
    if not position.store_uid or position.revision < 0 or len(position.digest) != POSITION_DIGEST_BYTES:
        return Rejection(reason=POSITION_INVALID, message=f"the position {describe(position)} is incomplete")
    if held is None:
        return None
    if position.store_uid != held.store_uid:
        if allow_new_store:
            return None
        return Rejection(
            reason=STORE_UID_MISMATCH,
            message=f"it is of store {position.store_uid}, and this data plane follows store {held.store_uid} until an "
            "operator allows another (--allow-new-store)",
        )
    if position.revision < held.revision:
        return Rejection(
            reason=REVISION_LOWER, message=f"it is revision {position.revision}, and revision {held.revision} is active"
        )
    if position.revision == held.revision and position.digest != held.digest:
        return Rejection(
            reason=REVISION_CONFLICT,
            message=f"revision {position.revision} is active with digest {held.digest.hex()}, "
            f"and this one has digest {position.digest.hex()}",
        )
    return None


def describe(position: Position) -> str:
    """`position` for people."""
    return f"{position.store_uid}@{position.revision}#{position.digest.hex()[:12]}"


class Assembler:
    """Collects the entries of one announced snapshot, within limits.

    Cheap per chunk, so that it may run on an event loop; what costs time is in `accept`.
    Invariants: names increase strictly; `_bytes` and the number of entries are within `limits`.
    After a rejection it is of no further use.
    """

    def __init__(self, position: Position, entry_count: int, limits: Limits) -> None:
        self.position = position
        self._entry_count = entry_count
        self._limits = limits
        self._entries: list[RawEntry] = []
        self._bytes = 0

    def announced(self) -> Rejection | None:
        """Check what the announcement says, before anything is collected."""
        if 0 <= self._entry_count <= self._limits.entries_max:
            return None
        return Rejection(
            reason=SNAPSHOT_TOO_LARGE,
            message=f"it has {self._entry_count} entries, allowed are 0 to {self._limits.entries_max}",
        )

    def add(self, entries: Iterable[snapshot_pb2.Entry]) -> Rejection | None:
        """Take the entries of one chunk."""
        for message in entries:
            entry = RawEntry(name=message.ref.name, type=message.ref.type, digest=message.ref.digest, blob=message.blob)
            rejection = self._refuse(entry)
            if rejection is not None:
                return rejection
            self._entries.append(entry)
        return None

    def _refuse(self, entry: RawEntry) -> Rejection | None:
        if len(self._entries) == self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH, message=f"more than the announced {self._entry_count} entries came"
            )
        if self._entries and self._entries[-1].name >= entry.name:
            return _not_ordered(self._entries[-1], entry)
        if len(entry.blob) > self._limits.blob_bytes_max:
            return Rejection(
                reason=BLOB_TOO_LARGE,
                message=f"{shorten(entry.name)} has {len(entry.blob)} bytes, allowed are {self._limits.blob_bytes_max}",
            )
        self._bytes += len(entry.name) + len(entry.type) + len(entry.blob)
        if self._bytes > self._limits.total_bytes_max:
            return Rejection(
                reason=SNAPSHOT_TOO_LARGE, message=f"it has more than {self._limits.total_bytes_max} bytes"
            )
        return None

    def complete(self) -> tuple[RawEntry, ...] | Rejection:
        """All entries, once the end has been announced."""
        if len(self._entries) != self._entry_count:
            return Rejection(
                reason=ENTRY_COUNT_MISMATCH,
                message=f"{len(self._entries)} entries came, {self._entry_count} were announced",
            )
        return tuple(self._entries)


def accept(
    position: Position,
    entries: Sequence[RawEntry],
    *,
    held: Snapshot | None,
    policy: Policy,
    found: Mapping[str, Quarantine] | None = None,
) -> Snapshot | Rejection:
    """Check a whole snapshot.

    Args:
        position: What the entries claim to be.
        entries: All of them, ordered by name.
        held: The active snapshot. `position` may not be behind it, and what is the same in both is
            taken from it: it was checked under the same policy, so most of the work is proportional
            to the change.
        policy: What this data plane accepts.
        found: What is to be quarantined of the entries of `position`, by name, as `accept` of the
            same release has found it under the same policy (`validation.py`). Then that these are
            those entries is checked, and what they say is not checked once more, but for API keys.
            None: everything is checked here.
    """
    rejection = refuse_position(
        position, held.position if held else None, allow_new_store=policy.allow_new_store
    ) or _refuse_form(entries, policy.limits)
    if rejection is not None:
        return rejection
    known = _known(entries, held)
    digest = _digest(entries, known, held)
    rejection = _refuse_content(position, entries, known, digest)
    if rejection is not None:
        return rejection
    checked = [
        _check_entry(entry, _message_of(held, entry.name) if held and one else None, policy, found)
        for entry, one in zip(entries, known, strict=True)
    ]
    rejection = _refuse_names(entries, checked) or _refuse_served_names(checked) or _refuse_references(entries, checked)
    if rejection is not None:
        return rejection
    return _put_together(position, entries, digest, checked, policy)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What became of one entry: a message, a quarantine, or both (readable, but not to be
    served)."""

    message: Message | None
    quarantine: Quarantine | None


def _refuse_form(entries: Sequence[RawEntry], limits: Limits) -> Rejection | None:
    if len(entries) > limits.entries_max:
        return Rejection(reason=SNAPSHOT_TOO_LARGE, message=f"it has more than {limits.entries_max} entries")
    for before, entry in pairwise(entries):
        if before.name >= entry.name:
            return _not_ordered(before, entry)
    return None


def _not_ordered(before: RawEntry, entry: RawEntry) -> Rejection:
    return Rejection(
        reason=ENTRIES_NOT_ORDERED,
        message=f"{shorten(entry.name)} comes after {shorten(before.name)}; names must increase",
    )


def _known(entries: Iterable[RawEntry], held: Snapshot | None) -> list[RawEntry | None]:
    """For each entry the same one (name, type, digest) of `held`, if there is one."""
    if held is None:
        return [None for _ in entries]
    by_name = {entry.name: entry for entry in held.entries}
    return [
        known if (known := by_name.get(entry.name)) is not None and _is_same(known, entry) else None
        for entry in entries
    ]


def _is_same(known: RawEntry, entry: RawEntry) -> bool:
    return known.name == entry.name and known.type == entry.type and known.digest == entry.digest


def _digest(entries: Sequence[RawEntry], known: Sequence[RawEntry | None], held: Snapshot | None) -> CatalogDigest:
    """The digest that the entries are announced to have, from that of `held` and the difference."""
    digest = held.digest if held else CatalogDigest()
    remaining = {one.name for one in known if one is not None}
    for entry in held.entries if held else ():
        if entry.name not in remaining:
            digest = digest.removed(entry.name, entry.type, entry.digest)
    for entry, one in zip(entries, known, strict=True):
        if one is None:
            digest = digest.added(entry.name, entry.type, entry.digest)
    return digest


def _refuse_content(
    position: Position, entries: Sequence[RawEntry], known: Sequence[RawEntry | None], digest: CatalogDigest
) -> Rejection | None:
    """Whether the entries are exactly those that `position` stands for."""
    for entry, one in zip(entries, known, strict=True):
        # Comparing with bytes that are known to have this digest costs a tenth of hashing them.
        if (one is None or one.blob != entry.blob) and blob_digest(entry.blob) != entry.digest:
            return Rejection(reason=BLOB_DIGEST_MISMATCH, message=f"the content of {shorten(entry.name)} was altered")
    if digest.root() != position.digest:
        return Rejection(
            reason=ROOT_DIGEST_MISMATCH,
            message=f"the entries have root digest {digest.root().hex()}, announced was {position.digest.hex()}",
        )
    return None


def _message_of(held: Snapshot, name: str) -> Message | None:
    """None: quarantined there, or a pin, of which there are few. It has to be looked at again."""
    return held.models.get(name) or held.adapters.get(name) or held.routes.get(name) or held.api_key_entries.get(name)


def _check_entry(
    entry: RawEntry, known: Message | None, policy: Policy, found: Mapping[str, Quarantine] | None
) -> _Checked:
    if known is not None:
        return _Checked(known, None)
    message_type = _MESSAGE_TYPES.get(entry.type)
    if message_type is None:
        return _Checked(
            None,
            Quarantine(reason=TYPE_UNKNOWN, message=f"this release knows no entries of type {shorten(entry.type)}"),
        )
    try:
        message = message_type.FromString(entry.blob)
    except DecodeError:
        return _Checked(None, Quarantine(reason=BLOB_UNREADABLE, message=f"its content is no {entry.type}"))
    if isinstance(message, api_key_pb2.ApiKeyEntry):
        return _Checked(message, _quarantine_of_key(message))
    return _Checked(message, _quarantine(message, policy) if found is None else found.get(entry.name))


def _quarantine_of_key(key: api_key_pb2.ApiKeyEntry) -> Quarantine | None:
    """Why a readable key is not to be accepted from callers; None: it is."""
    faults = [f"{violation.field}: {violation.description}" for violation in violations_of(key)]
    try:
        parse_api_key(key.name)
    except ValueError as error:
        faults.append(f"name: {shorten(str(error))}")
    if not key.revoked and len(key.key_hash) != HASH_BYTES:
        faults.append(f"key_hash: got {len(key.key_hash)} bytes, must be {HASH_BYTES}")
    if not key.revoked and not key.HasField("limits"):
        faults.append("limits: missing")
    return Quarantine(reason=ENTRY_INVALID, message="; ".join(faults[:8])) if faults else None


def _quarantine(message: Versioned, policy: Policy) -> Quarantine | None:
    """Why a readable entry is not to be served; None: it is."""
    number = message.revision.number
    faults = [f"{violation.field}: {violation.description}" for violation in violations_of(message)]
    if not isinstance(message, _PINS) and _SERVED_NAME.fullmatch(message.served_name) is None:
        faults.append(f"served_name: got {shorten(message.served_name)}: must match {SERVED_NAME_PATTERN}")
    faults.extend(_own_faults(message))
    if faults:
        return Quarantine(reason=ENTRY_INVALID, message="; ".join(faults[:8]), revision_number=number)
    uri = _source(message).uri
    if uri and not source_allowed(uri, policy.allowed_sources):
        return Quarantine(
            reason=SOURCE_NOT_ALLOWED,
            message=f"this data plane does not accept the source {shorten(uri)}; it accepts "
            f"{', '.join(policy.allowed_sources) or 'none'}",
            revision_number=number,
        )
    return None


def _own_faults(message: Versioned) -> list[str]:
    """Faults that the protos' rules cannot state."""
    faults = []
    try:
        if isinstance(message, snapshot_pb2.ModelEntry):
            parse_model(message.name)
        elif isinstance(message, snapshot_pb2.RouteEntry):
            parse_route(message.name)
        elif isinstance(message, _PINS):
            faults.extend(_pin_faults(message))
        elif f"models/{parse_adapter(message.name)[0]}" != message.model:
            faults.append(f"model: got {shorten(message.model)}, but the name is {shorten(message.name)}")
    except ValueError as error:
        faults.append(f"name: {shorten(str(error))}")
    if message.revision.number < 1:
        faults.append(f"revision.number: got {message.revision.number}, must be 1 or more")
    if not _source(message).uri and _needs_source(message):
        faults.append("a source is missing")
    return faults


def _pin_faults(pin: Pin) -> list[str]:
    """Faults in what a pinned revision says of itself."""
    target = parse_target(pin.name)
    owner = pin.model if isinstance(pin, snapshot_pb2.ModelRevisionEntry) else pin.adapter
    is_adapter = isinstance(pin, snapshot_pb2.AdapterRevisionEntry)
    if (target.resource, target.number, target.adapter_id is not None) == (owner, pin.revision.number, is_adapter):
        return []
    return [f"name: got {shorten(pin.name)}, but it is revision {pin.revision.number} of {shorten(owner)}"]


def _source(message: Versioned) -> model_pb2.Source:
    """Where its files are; empty where there are none."""
    revision: model_pb2.ModelRevision | adapter_pb2.AdapterRevision | route_pb2.RouteRevision = message.revision
    if isinstance(revision, model_pb2.ModelRevision):
        return revision.spec.source
    return revision.source if isinstance(revision, adapter_pb2.AdapterRevision) else model_pb2.Source()


def _needs_source(message: Versioned) -> bool:
    revision: model_pb2.ModelRevision | adapter_pb2.AdapterRevision | route_pb2.RouteRevision = message.revision
    if isinstance(revision, model_pb2.ModelRevision):
        return revision.spec.engine.kind != model_pb2.Engine.KIND_SIMULATED
    return isinstance(revision, adapter_pb2.AdapterRevision)


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


def _refuse_names(entries: Sequence[RawEntry], checked: Sequence[_Checked]) -> Rejection | None:
    for entry, one in zip(entries, checked, strict=True):
        if one.message is not None and one.message.name != entry.name:
            return Rejection(
                reason=NAME_MISMATCH, message=f"{shorten(entry.name)} holds an entry of {shorten(one.message.name)}"
            )
    return None


def _refuse_served_names(checked: Iterable[_Checked]) -> Rejection | None:
    taken: dict[str, str] = {}
    for one in checked:
        if one.message is None or isinstance(one.message, _UNNAMED) or not one.message.served_name:
            continue
        other = taken.setdefault(one.message.served_name, one.message.name)
        if other != one.message.name:
            return Rejection(
                reason=SERVED_NAME_CONFLICT,
                message=f"{other} and {one.message.name} are both served as {shorten(one.message.served_name)}",
            )
    return None


def _refuse_references(entries: Sequence[RawEntry], checked: Iterable[_Checked]) -> Rejection | None:
    """Whether everything that is referred to is there, be it quarantined."""
    models = {entry.name for entry in entries if entry.type != ADAPTER_ENTRY}
    names = {entry.name for entry in entries}
    for one in checked:
        message = one.message
        if isinstance(message, snapshot_pb2.AdapterEntry) and message.model not in models:
            return Rejection(
                reason=BASE_MODEL_MISSING,
                message=f"{message.name} is an adapter of {shorten(message.model)}, which is missing",
            )
        if isinstance(message, _PINS) and not _owners(message) <= names:
            return Rejection(
                reason=BASE_MODEL_MISSING, message=f"{message.name} is a revision of something that is missing"
            )
        if isinstance(message, snapshot_pb2.RouteEntry):
            missing = next((name for name in _targets(message) if name not in names), None)
            if missing is not None:
                return Rejection(
                    reason=ROUTE_TARGET_MISSING,
                    message=f"{message.name} refers to {shorten(missing)}, which is missing",
                )
    return None


def _owners(pin: Pin) -> set[str]:
    return {pin.model} if isinstance(pin, snapshot_pb2.ModelRevisionEntry) else {pin.adapter, model_of(pin.adapter)}


def _targets(route: snapshot_pb2.RouteEntry) -> Iterator[str]:
    spec = route.revision.spec
    yield from (target.resource for target in spec.targets)
    yield from (fallback.resource for fallback in spec.fallbacks)


def _put_together(
    position: Position,
    entries: Sequence[RawEntry],
    digest: CatalogDigest,
    checked: Sequence[_Checked],
    policy: Policy,
) -> Snapshot:
    quarantined: dict[str, Quarantine] = {}
    messages: dict[str, Message] = {}
    for entry, one in zip(entries, checked, strict=True):
        if one.quarantine is not None:
            quarantined[entry.name] = one.quarantine
        elif one.message is not None:
            messages[entry.name] = one.message
            if isinstance(one.message, snapshot_pb2.ModelEntry):
                quarantined.update(_quarantined_candidate(one.message, policy))
    for message in tuple(messages.values()):
        if not isinstance(message, snapshot_pb2.AdapterEntry | snapshot_pb2.AdapterRevisionEntry):
            continue
        if model_of(message.name) not in messages:
            del messages[message.name]
            quarantined[message.name] = Quarantine(
                reason=BASE_MODEL_QUARANTINED,
                message=f"its base {model_of(message.name)} is quarantined",
                revision_number=message.revision.number,
            )
    return build(position, entries, digest, messages.values(), quarantined)


def _quarantined_candidate(model: snapshot_pb2.ModelEntry, policy: Policy) -> Mapping[str, Quarantine]:
    """Why the revision that is being rolled out is not served here, by its name; the model is,
    without it."""
    name = candidate_name(model)
    if name is None:
        return {}
    number, spec = model.candidate.number, model.candidate.spec
    if number <= model.revision.number or not 1 <= model.candidate_percent <= 99:
        message = f"revision {number} cannot be rolled out to {model.candidate_percent} % over {model.revision.number}"
        return {name: Quarantine(reason=ENTRY_INVALID, message=message, revision_number=number)}
    needs_source = spec.engine.kind != model_pb2.Engine.KIND_SIMULATED
    if (spec.source.uri or needs_source) and not source_allowed(spec.source.uri, policy.allowed_sources):
        message = f"this data plane does not accept the source {shorten(spec.source.uri)}"
        return {name: Quarantine(reason=SOURCE_NOT_ALLOWED, message=message, revision_number=number)}
    return {}
