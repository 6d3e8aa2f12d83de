"""Decodes single entries, and checks whether they may be served. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from google.protobuf.message import DecodeError

from broadsheet.v1 import adapter_pb2, api_key_pb2, model_pb2, route_pb2, snapshot_pb2
from dataplane.snapshot.policy import Policy, source_allowed
from dataplane.snapshot.quarantine import (
    BLOB_UNREADABLE,
    ENGINE_ARGUMENT_NOT_ALLOWED,
    ENTRY_INVALID,
    SOURCE_NOT_ALLOWED,
    TYPE_UNKNOWN,
    Quarantine,
)
from dataplane.snapshot.snapshot import (
    ADAPTER_ENTRY,
    ADAPTER_REVISION_ENTRY,
    API_KEY_ENTRY,
    MODEL_ENTRY,
    MODEL_REVISION_ENTRY,
    ROUTE_ENTRY,
    Message,
    Pin,
    RawEntry,
    Versioned,
    candidate_name,
)
from protocol.api_keys import HASH_BYTES
from protocol.engine_args import privileged
from protocol.names import SERVED_NAME_PATTERN, parse_adapter, parse_api_key, parse_model, parse_route, parse_target
from protocol.validation import shorten, violations_of

FAULTS_SHOWN_MAX = 8
"""Faults of one entry that its quarantine lists. An operator fixes the first ones first."""

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


def decode(entry: RawEntry) -> Message | Quarantine:
    """Return the message of an entry, or why it cannot be decoded."""
    message_type = _MESSAGE_TYPES.get(entry.type)
    if message_type is None:
        return Quarantine(reason=TYPE_UNKNOWN, message=f"this release knows no entries of type {shorten(entry.type)}")
    try:
        return message_type.FromString(entry.blob)
    except DecodeError:
        return Quarantine(reason=BLOB_UNREADABLE, message=f"its content is not a {entry.type}")


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome for one entry: a message, a quarantine, or both (decoded, but not served)."""

    message: Message | None
    quarantine: Quarantine | None


def check_entry(entry: RawEntry, policy: Policy, found: Mapping[str, Quarantine] | None) -> Checked:
    """Decode an entry, and find out whether it may be served.

    Args:
        entry: The entry.
        policy: What this data plane accepts.
        found: The quarantines that were found for the entries of its snapshot, by name. Then only
            API keys are checked: a relayed result must not decide who may call.
    """
    message = decode(entry)
    if isinstance(message, Quarantine):
        return Checked(None, message)
    if isinstance(message, api_key_pb2.ApiKeyEntry):
        return Checked(message, check_key(message))
    return Checked(message, check_versioned(message, policy) if found is None else found.get(entry.name))


def check_key(key: api_key_pb2.ApiKeyEntry) -> Quarantine | None:
    """Return why a key must not be accepted from callers; None if it may."""
    faults = [f"{violation.field}: {violation.description}" for violation in violations_of(key)]
    try:
        parse_api_key(key.name)
    except ValueError as error:
        faults.append(f"name: {shorten(str(error))}")
    if not key.revoked and len(key.key_hash) != HASH_BYTES:
        faults.append(f"key_hash: got {len(key.key_hash)} bytes, must be {HASH_BYTES}")
    if not key.revoked and not key.HasField("limits"):
        faults.append("limits: missing")
    return _invalid(faults) if faults else None


def check_versioned(message: Versioned, policy: Policy) -> Quarantine | None:
    """Return why a model, adapter, route or pinned revision must not be served; None if it may."""
    number = message.revision.number
    faults = [f"{violation.field}: {violation.description}" for violation in violations_of(message)]
    if not isinstance(message, Pin) and _SERVED_NAME.fullmatch(message.served_name) is None:
        faults.append(f"served_name: got {shorten(message.served_name)}: must match {SERVED_NAME_PATTERN}")
    faults.extend(_faults_beyond_proto_rules(message))
    if faults:
        return _invalid(faults, number)
    uri = _source(message).uri
    if uri and not source_allowed(uri, policy.allowed_sources):
        return Quarantine(
            reason=SOURCE_NOT_ALLOWED,
            message=f"this data plane does not accept the source {shorten(uri)}; it accepts "
            f"{', '.join(policy.allowed_sources) or 'none'}",
            revision_number=number,
        )
    revision = message.revision
    return _check_engine_args(revision.spec, number, policy) if isinstance(revision, model_pb2.ModelRevision) else None


def check_candidate(model: snapshot_pb2.ModelEntry, policy: Policy) -> Quarantine | None:
    """Return why the revision being rolled out must not be served; None if it may, or without one.

    The model itself is served without its candidate.
    """
    if candidate_name(model) is None:
        return None
    number, spec = model.candidate.number, model.candidate.spec
    if number <= model.revision.number or not 1 <= model.candidate_percent <= 99:
        message = f"revision {number} cannot be rolled out to {model.candidate_percent} % over {model.revision.number}"
        return Quarantine(reason=ENTRY_INVALID, message=message, revision_number=number)
    needs_source = spec.engine.kind != model_pb2.Engine.KIND_SIMULATED
    if (spec.source.uri or needs_source) and not source_allowed(spec.source.uri, policy.allowed_sources):
        message = f"this data plane does not accept the source {shorten(spec.source.uri)}"
        return Quarantine(reason=SOURCE_NOT_ALLOWED, message=message, revision_number=number)
    return _check_engine_args(spec, number, policy)


def _check_engine_args(spec: model_pb2.ModelSpec, number: int, policy: Policy) -> Quarantine | None:
    if spec.engine.kind == model_pb2.Engine.KIND_SIMULATED:
        return None
    faults = [
        f"engine argument {shorten(found.name)} {found.why}"
        for found in islice(privileged(spec.engine.args, policy.allowed_engine_args), FAULTS_SHOWN_MAX)
    ]
    if not faults:
        return None
    message = f"{'; '.join(faults)}: the operator of this data plane has not allowed it (--allowed-engine-args)"
    return Quarantine(reason=ENGINE_ARGUMENT_NOT_ALLOWED, message=message, revision_number=number)


def _invalid(faults: list[str], number: int = 0) -> Quarantine:
    return Quarantine(reason=ENTRY_INVALID, message="; ".join(faults[:FAULTS_SHOWN_MAX]), revision_number=number)


def _faults_beyond_proto_rules(message: Versioned) -> list[str]:
    """Faults that the rules in the protos cannot express."""
    faults = []
    try:
        if isinstance(message, snapshot_pb2.ModelEntry):
            parse_model(message.name)
        elif isinstance(message, snapshot_pb2.RouteEntry):
            parse_route(message.name)
        elif isinstance(message, Pin):
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
    """Differences between the name of a pinned revision and its fields."""
    target = parse_target(pin.name)
    owner = pin.model if isinstance(pin, snapshot_pb2.ModelRevisionEntry) else pin.adapter
    is_adapter = isinstance(pin, snapshot_pb2.AdapterRevisionEntry)
    if (target.resource, target.number, target.adapter_id is not None) == (owner, pin.revision.number, is_adapter):
        return []
    return [f"name: got {shorten(pin.name)}, but it is revision {pin.revision.number} of {shorten(owner)}"]


def _source(message: Versioned) -> model_pb2.Source:
    """Where its files are; empty for what has none."""
    revision: model_pb2.ModelRevision | adapter_pb2.AdapterRevision | route_pb2.RouteRevision = message.revision
    if isinstance(revision, model_pb2.ModelRevision):
        return revision.spec.source
    return revision.source if isinstance(revision, adapter_pb2.AdapterRevision) else model_pb2.Source()


def _needs_source(message: Versioned) -> bool:
    revision: model_pb2.ModelRevision | adapter_pb2.AdapterRevision | route_pb2.RouteRevision = message.revision
    if isinstance(revision, model_pb2.ModelRevision):
        return revision.spec.engine.kind != model_pb2.Engine.KIND_SIMULATED
    return isinstance(revision, adapter_pb2.AdapterRevision)
