"""Decodes entries into messages, by their type. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import DecodeError

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.quarantine import BLOB_UNREADABLE, TYPE_UNKNOWN, Quarantine
from dataplane.snapshot.snapshot import (
    ADAPTER_ENTRY,
    ADAPTER_REVISION_ENTRY,
    API_KEY_ENTRY,
    MODEL_ENTRY,
    MODEL_REVISION_ENTRY,
    ROUTE_ENTRY,
    Message,
    RawEntry,
)
from protocol.validation import shorten

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
        return Quarantine(reason=BLOB_UNREADABLE, message=f"its content is no {entry.type}")
