"""Whether a snapshot is consistent: names agree, served names are unique, and references resolve.

A reference to a quarantined entry resolves: the entry exists, though it is not served. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.rejection import (
    BASE_MODEL_MISSING,
    NAME_MISMATCH,
    ROUTE_TARGET_MISSING,
    SERVED_NAME_CONFLICT,
    Rejection,
)
from dataplane.snapshot.snapshot import ADAPTER_ENTRY, Message, Pin, RawEntry, model_of
from protocol.validation import shorten


def refuse_inconsistent(entries: Iterable[RawEntry], messages: Mapping[str, Message]) -> Rejection | None:
    """Check a whole snapshot for consistency.

    Args:
        entries: All entries.
        messages: Every entry that could be decoded, by the entry's name; quarantined ones too.
    """
    return _refuse_names(messages) or _refuse_served_names(messages.values()) or _refuse_references(entries, messages)


def _refuse_names(messages: Mapping[str, Message]) -> Rejection | None:
    for name, message in messages.items():
        if message.name != name:
            return Rejection(reason=NAME_MISMATCH, message=f"{shorten(name)} holds an entry of {shorten(message.name)}")
    return None


def _refuse_served_names(messages: Iterable[Message]) -> Rejection | None:
    owners: dict[str, str] = {}
    for message in messages:
        if isinstance(message, Pin | api_key_pb2.ApiKeyEntry) or not message.served_name:
            continue
        owner = owners.setdefault(message.served_name, message.name)
        if owner != message.name:
            return Rejection(
                reason=SERVED_NAME_CONFLICT,
                message=f"{owner} and {message.name} are both served as {shorten(message.served_name)}",
            )
    return None


def _refuse_references(entries: Iterable[RawEntry], messages: Mapping[str, Message]) -> Rejection | None:
    models, names = set(), set()
    for entry in entries:
        names.add(entry.name)
        if entry.type != ADAPTER_ENTRY:
            models.add(entry.name)
    for message in messages.values():
        if isinstance(message, snapshot_pb2.AdapterEntry) and message.model not in models:
            return Rejection(
                reason=BASE_MODEL_MISSING,
                message=f"{message.name} is an adapter of {shorten(message.model)}, which is missing",
            )
        if isinstance(message, Pin) and not _owners(message) <= names:
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
