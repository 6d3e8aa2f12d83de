"""The wire between ingress and engine replicas: headers, a status, how they are encoded. Pure.

Both sides take them from here. The engine-side name of an adapter, which both use as well, is in
`adapter_names`.
"""

from __future__ import annotations

import base64
import binascii
import hmac

from google.protobuf.message import DecodeError

from broadsheet.v1 import snapshot_pb2

OWN_HEADER_PREFIX = "x-broadsheet-"
"""Headers between Broadsheet's own parts. The ingress drops them from callers' requests and from
engines' answers."""

SERVED_NAME_HEADER = "x-broadsheet-served-name"
"""To the engine: the name that the caller asked for. Responses show it as their `model`."""

ADAPTER_HEADER = "x-broadsheet-adapter"
"""To the engine: the adapter's entry, by `encode_adapter`. Without it the base model answers."""

ENGINE_DEAD_STATUS = 421
"""Misdirected Request, from a replica: its engine has died. The ingress asks another replica."""

ENGINE_HAD_REQUEST_HEADER = "x-broadsheet-engine-had-request"
"""With that status: the engine died while it had the request, perhaps because of it."""

ADAPTER_FAILED_HEADER = "x-broadsheet-adapter-failed"
"""With an error from a replica: its engine could not load the adapter. It never had the request."""


def authorization(secret: str) -> str:
    """The `authorization` header of a request to a replica with this secret."""
    return f"Bearer {secret}"


def is_authorized(header: bytes, secret: str) -> bool:
    """Whether an `authorization` header carries the secret. Takes the same time for any header."""
    return hmac.compare_digest(header, authorization(secret).encode())


def encode_adapter(adapter: snapshot_pb2.AdapterEntry) -> str:
    """An adapter's entry as a header: base64 of the message.

    Card and labels are left out: they may be long, and engines do not use them.
    """
    entry = snapshot_pb2.AdapterEntry()
    entry.CopyFrom(adapter)
    entry.ClearField("labels")
    entry.revision.ClearField("card")
    return base64.b64encode(entry.SerializeToString()).decode()


def decode_adapter(header: bytes) -> snapshot_pb2.AdapterEntry:
    """The entry in an `ADAPTER_HEADER`.

    Raises:
        ValueError: it is not an encoded AdapterEntry.
    """
    try:
        return snapshot_pb2.AdapterEntry.FromString(base64.b64decode(header, validate=True))
    except (binascii.Error, DecodeError) as error:
        raise ValueError("not an AdapterEntry") from error
