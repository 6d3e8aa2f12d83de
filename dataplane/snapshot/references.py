"""Whether a snapshot is consistent: names agree, served names are unique, and references resolve.

A reference to a quarantined entry resolves: the entry exists, though it is not served. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.rejection import (
    BASE_MODEL_MISSING,
    NAME_MISMATCH,
    ROUTE_TARGET_MISSING,
    SERVED_NAME_CONFLICT,
    Rejection,
)
from dataplane.snapshot.snapshot import ADAPTER_ENTRY, Message, Pin, RawEntry, Resource, model_of
from protocol.validation import shorten


def refuse_inconsistent(entries: Iterable[RawEntry], messages: Mapping[str, Message]) -> Rejection | None:
    """Check a whole snapshot for consistency.

    Args:
        entries: All entries.
        messages: Every entry that could be decoded, by the entry's name; quarantined ones too.
    """
    return _refuse_names(messages) or _refuse_served_names(messages.values()) or _refuse_references(entries, messages)


def _refuse_names(messages: Mapping[str, Message]) -> Rejection | None:
    faults = (refuse_name(name, message) for name, message in messages.items())
    return next((fault for fault in faults if fault is not None), None)


def refuse_name(name: str, message: Message) -> Rejection | None:
    """Check that an entry holds the message of its name."""
    if message.name == name:
        return None
    return Rejection(reason=NAME_MISMATCH, message=f"{shorten(name)} holds an entry of {shorten(message.name)}")


def _refuse_served_names(messages: Iterable[Message]) -> Rejection | None:
    owners: dict[str, str] = {}
    for message in messages:
        if not isinstance(message, Resource) or not message.served_name:
            continue
        owner = owners.setdefault(message.served_name, message.name)
        if owner != message.name:
            return served_name_conflict(owner, message)
    return None


def served_name_conflict(owner: str, message: Resource) -> Rejection:
    """The rejection for a served name that another entry has already."""
    return Rejection(
        reason=SERVED_NAME_CONFLICT,
        message=f"{owner} and {message.name} are both served as {shorten(message.served_name)}",
    )


def _refuse_references(entries: Iterable[RawEntry], messages: Mapping[str, Message]) -> Rejection | None:
    models, names = set(), set()
    for entry in entries:
        names.add(entry.name)
        if entry.type != ADAPTER_ENTRY:
            models.add(entry.name)
    faults = (dangling_reference(message, models, names) for message in messages.values())
    return next((fault for fault in faults if fault is not None), None)


def dangling_reference(message: Message, models: Container[str], names: Container[str]) -> Rejection | None:
    """The rejection for a reference of `message` that does not resolve; None if all do.

    Args:
        message: Of an entry.
        models: Names of the entries that an adapter may be based on.
        names: Names of all entries.
    """
    if isinstance(message, snapshot_pb2.AdapterEntry) and message.model not in models:
        return Rejection(
            reason=BASE_MODEL_MISSING,
            message=f"{message.name} is an adapter of {shorten(message.model)}, which is missing",
        )
    if isinstance(message, Pin) and any(name not in names for name in references_of(message)):
        return Rejection(
            reason=BASE_MODEL_MISSING, message=f"{message.name} is a revision of something that is missing"
        )
    if isinstance(message, snapshot_pb2.RouteEntry):
        missing = next((name for name in references_of(message) if name not in names), None)
        if missing is not None:
            return Rejection(
                reason=ROUTE_TARGET_MISSING,
                message=f"{message.name} refers to {shorten(missing)}, which is missing",
            )
    return None


def references_of(message: Message) -> tuple[str, ...]:
    """Names of the entries that an entry refers to."""
    if isinstance(message, snapshot_pb2.AdapterEntry | snapshot_pb2.ModelRevisionEntry):
        return (message.model,)
    if isinstance(message, snapshot_pb2.AdapterRevisionEntry):
        return (message.adapter, model_of(message.adapter))
    if isinstance(message, snapshot_pb2.RouteEntry):
        spec = message.revision.spec
        return (*(target.resource for target in spec.targets), *(fallback.resource for fallback in spec.fallbacks))
    return ()


def hidden_references(message: Message) -> Iterator[str]:
    """Those of `references_of` that the name of the entry does not show.

    `models/m/adapters/x` shows that it refers to `models/m`.
    """
    return (name for name in references_of(message) if not message.name.startswith(f"{name}/"))
