"""Events of the audit log: what they record of a change, and how much of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from broadsheet.v1 import audit_pb2, change_pb2
from controlplane import errors
from controlplane.catalog import convert, diff, domain
from controlplane.principal import Origin, Principal

CHANGES_MAX = 1000
"""Resources in one event. A single transaction may delete a model with 100,000 adapters."""

EVENT_BLOB_BYTES_MAX = 512 * 1024
"""Bytes of blobs whose content one event shows, before and after together: two of the largest.

A page of events must stay far below what gRPC clients accept in one message, and JSON is about
twice as large as the blob."""


EventKey = tuple[int, int]
"""`AuditEvent.key`: events are in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Who made a catalog revision, and what changed; or who did what else."""

    catalog_revision: int
    """The revision that was made. Of an operation: the newest at that time."""
    operation: int = 0
    """Counts the operations after that revision that changed no catalog, from 1. 0: the event of
    the revision itself."""
    create_time: datetime
    principal: Principal
    origin: Origin
    method: str
    resource: str
    """Resource name that the method was called with."""
    changes: tuple[change_pb2.ResourceChange, ...]
    """In the order of resource names; at most CHANGES_MAX."""
    change_count: int
    """Resources that changed, including those left out of `changes`."""

    @property
    def key(self) -> EventKey:
        """Where it is in the log."""
        return self.catalog_revision, self.operation


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Selects events. A field that is empty or None matches all."""

    resource: str = ""
    """A resource name that the method was called with, or that changed."""
    principal: str = ""
    method: str = ""
    min_revision: int | None = None
    max_revision: int | None = None
    start_time: datetime | None = None
    """Events at this time or later (UTC, aware)."""
    end_time: datetime | None = None
    """Events before this time (UTC, aware)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRef:
    """An entry without its blob."""

    type: str
    digest: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryChange:
    """The entry of a resource before and after a transaction. At least one of the two exists."""

    name: str
    before: EntryRef | None
    after: EntryRef | None

    @property
    def refs(self) -> tuple[EntryRef, ...]:
        """Those that exist, the earlier first."""
        return tuple(ref for ref in (self.before, self.after) if ref is not None)


def shown(entry_changes: Sequence[EntryChange]) -> Sequence[EntryChange]:
    """The first changes, as many as have room for their content in one event."""
    room_bytes = EVENT_BLOB_BYTES_MAX
    for count, change in enumerate(entry_changes):
        room_bytes -= sum(ref.size_bytes for ref in change.refs)
        if room_bytes < 0:
            return entry_changes[:count]
    return entry_changes


def kept_changes(
    entry_changes: Sequence[EntryChange], contents: Mapping[bytes, bytes]
) -> tuple[change_pb2.ResourceChange, ...]:
    """The changes as the log stores them: without secrets, and with content for those `shown`.

    Args:
        entry_changes: In the order of resource names.
        contents: Blobs by digest, of the changes that are `shown`.
    """

    def entry(name: str, ref: EntryRef | None) -> domain.Entry | None:
        if ref is None:
            return None
        return domain.Entry(name=name, type=ref.type, digest=ref.digest, blob=contents[ref.digest])

    content_count = len(shown(entry_changes))
    return tuple(
        diff.resource_change(entry(change.name, change.before), entry(change.name, change.after))
        if index < content_count
        else change_pb2.ResourceChange(
            name=change.name,
            type=change.refs[-1].type,
            kind=diff.kind(change.before, change.after),
            omitted=True,
        )
        for index, change in enumerate(entry_changes)
    )


def event_to_proto(event: AuditEvent) -> audit_pb2.AuditEvent:
    return audit_pb2.AuditEvent(
        catalog_revision=event.catalog_revision,
        create_time=convert.timestamp_to_proto(event.create_time),
        principal=audit_pb2.Principal(
            name=event.principal.name,
            role=event.principal.role,
            authentication=event.principal.authentication,
        ),
        address=event.origin.address,
        request_id=event.origin.request_id,
        method=event.method,
        resource=event.resource,
        changes=event.changes,
        change_count=event.change_count,
        operation=event.operation,
    )


def filter_from_proto(request: audit_pb2.ListAuditEventsRequest) -> EventFilter:
    """The filter in a request.

    Raises:
        errors.InvalidArgument: A time is out of range.
    """
    return EventFilter(
        resource=request.resource,
        principal=request.principal,
        method=request.method,
        min_revision=request.min_revision if request.HasField("min_revision") else None,
        max_revision=request.max_revision if request.HasField("max_revision") else None,
        start_time=_time(request, "start_time"),
        end_time=_time(request, "end_time"),
    )


def _time(request: audit_pb2.ListAuditEventsRequest, field: Literal["start_time", "end_time"]) -> datetime | None:
    if not request.HasField(field):
        return None
    value = request.start_time if field == "start_time" else request.end_time
    try:
        return convert.timestamp_from_proto(value)
    except (ValueError, OverflowError):
        raise errors.InvalidArgument.of_field(
            field, f"got {value.seconds} s and {value.nanos} ns; must be a time between the years 1 and 9999"
        ) from None
